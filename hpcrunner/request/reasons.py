"""Why an experiment ended, as one closed list used by the job side, the gateway and the CLI."""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """One word per ending. The text beside it (in records and the journal) is for people."""

    # The payload's own endings.
    COMPLETED = "COMPLETED"
    PAYLOAD_EXIT = "PAYLOAD_EXIT"  # ended with a non-zero exit code
    PAYLOAD_SIGNAL = "PAYLOAD_SIGNAL"  # ended by a signal nobody of ours sent
    MAX_DURATION = "MAX_DURATION"  # experiment.max_duration reached
    LIFETIME_EXPIRED = "LIFETIME_EXPIRED"  # time_added + experimentLifetime reached
    # What the job side met around the payload.
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    ARTIFACT_DENIED = "ARTIFACT_DENIED"  # the store refused the credentials
    ARTIFACT_REFUSED = "ARTIFACT_REFUSED"  # an archive that would escape, or is not one
    STORE_UNREACHABLE = "STORE_UNREACHABLE"
    DISK_BUDGET = "DISK_BUDGET"  # more bytes than resources_needed.hdd
    ENVIRONMENT_FAILED = "ENVIRONMENT_FAILED"  # the Python environment could not be built
    PAYLOAD_NOT_STARTED = "PAYLOAD_NOT_STARTED"  # no such file, interpreter or runtime
    CONTAINER_FAILED = "CONTAINER_FAILED"  # the node has no runtime, or it failed by itself
    GPUS_MISSING = "GPUS_MISSING"  # the node lacks the GPUs that the job asked for
    NO_ROOM = "NO_ROOM"  # a file system that all nodes share is full, or a quota on it is
    UPLOAD_FAILED = "UPLOAD_FAILED"  # the payload ended well, its results did not get out
    JOB_SIDE_FAULT = "JOB_SIDE_FAULT"  # a fault of hpcrunner itself on the node
    # What the scheduler says.
    TIME_LIMIT = "TIME_LIMIT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    PREEMPTED = "PREEMPTED"
    DEADLINE = "DEADLINE"
    CANCELLED = "CANCELLED"
    SCHEDULER_FAILED = "SCHEDULER_FAILED"  # ended without a record and without a better word
    # What the gateway decides.
    REJECTED = "REJECTED"  # never submitted: the message or the site forbids it
    SUBMIT_REFUSED = "SUBMIT_REFUSED"  # the scheduler said no, for good
    LOST = "LOST"  # continuously absent while every witness was healthy
