import pytest

from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import JobState
from hpcrunner.schedulers.states import STATES, meaning, never_starts

# squeue(1) and sacct(1), "JOB STATE CODES", of 20.11 to 26.05.
MAN_PAGES = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "CONFIGURING",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "PREEMPTED",
    "RUNNING",
    "RESV_DEL_HOLD",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "REQUEUED",
    "RESIZING",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "TIMEOUT",
    "LAUNCH_FAILED",
    "RECONFIG_FAIL",
    "POWER_UP_NODE",
    "UPDATE_DB",
    "EXPEDITING",
]

NO_ENDINGS = [
    "PENDING",
    "RUNNING",
    "SUSPENDED",
    "CONFIGURING",
    "COMPLETING",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    "STOPPED",
    "POWER_UP_NODE",
    "UPDATE_DB",
    "EXPEDITING",
]


@pytest.mark.parametrize("word", MAN_PAGES)
def test_every_state_of_the_man_pages_is_known(word: str) -> None:
    assert meaning(word).known


@pytest.mark.parametrize("word", NO_ENDINGS)
def test_a_flag_or_a_requeue_is_no_ending(word: str) -> None:
    assert not meaning(word).ended
    assert meaning(word).reason is None


@pytest.mark.parametrize("word", sorted(set(MAN_PAGES) - set(NO_ENDINGS)))
def test_every_ending_has_a_reason(word: str) -> None:
    assert meaning(word).ended
    assert meaning(word).reason is not None


def test_only_completed_reads_as_success() -> None:
    assert [w for w, m in STATES.items() if m.reason is Reason.COMPLETED] == ["COMPLETED"]


def test_a_new_word_is_taken_as_running_and_never_as_an_ending() -> None:
    said = meaning("DANCING")
    assert (said.state, said.reason, said.known) == (JobState.RUNNING, None, False)


@pytest.mark.parametrize(
    "pending",
    [
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "BadConstraints",
        "AssocMaxWallDurationPerJobLimit",
        "QOSMaxGRESPerNode",
        "QOSMinCpuNotSatisfied",
        "InvalidAccount",
        "AccountNotAllowed",
        "launch failed requeued held",
    ],
)
def test_a_reason_that_no_time_mends_is_known(pending: str) -> None:
    assert never_starts(pending)


@pytest.mark.parametrize(
    "pending",
    [
        "None",
        "Priority",
        "Resources",
        "BeginTime",
        "JobHeldUser",
        "JobHeldAdmin",
        "ReqNodeNotAvail, UnavailableNodes:n1",
        "PartitionDown",
        "QOSMaxCpuPerUserLimit",
        "AssocGrpCPUMinutesLimit",
        "AssocMaxJobsLimit",
    ],
)
def test_a_reason_that_passes_or_that_a_person_chose_is_waited_for(pending: str) -> None:
    assert not never_starts(pending)
