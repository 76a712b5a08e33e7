"""One message → a validated Request, or the header of a sealed one."""

from __future__ import annotations

import json

from hpcrunner.request.decode import decode_message
from hpcrunner.request.errors import RequestError
from hpcrunner.request.lenient import Member
from hpcrunner.request.model import Request, Resources, RetryWish, SealedRequest
from hpcrunner.request.payload import (
    read_args,
    read_environment,
    read_filename,
    read_packages,
    read_python_version,
)
from hpcrunner.request.stores import CONTAINER, MIN_INTERVAL, read_artifacts, read_store

__all__ = ["RequestError", "parse_message", "read_resources", "sealed_part"]

MAX_KEY = 1024
MAX_COUNT = 1_000_000  # of CPUs or GPUs
MAX_SIZE = 10**18  # bytes
MAX_TYPE = 64  # characters of a GPU type's name
MAX_EPOCH = 1e12
MAX_DESTINATION = 80  # characters


def parse_message(body: bytes) -> Request | SealedRequest:
    """Read a message as it came off a queue.

    ``{"experiment": {...}, "config": {...}}`` is a Request; ``{"message": {"payload": …}}`` is
    an encrypted one, of which only the clear header is read. Loose about types, unknown
    members and what is null; strict about what would harm. Raises RequestError, and nothing
    else whatever the bytes are.
    """
    root = Member(decode_message(body))
    envelope = root.get("message")
    if isinstance(envelope.value, dict) and "payload" in envelope.value:
        return _sealed(envelope)
    return _request(root.get("experiment"), root.get("config"))


def sealed_part(body: bytes) -> str:
    """The payload of a sealed message: all that its signature covers, so the same in every copy.

    "" for a message in clear text, or one that cannot be read.
    """
    try:
        envelope = Member(decode_message(body)).get("message")
        return envelope.get("payload").text() if isinstance(envelope.value, dict) else ""
    except RequestError:
        return ""


def read_resources(member: Member) -> Resources:
    """``resources_needed``; null and missing members ask for nothing (one CPU, no GPU).

    ``gpuType`` is a member of ours, which other runners pass over.
    """
    return Resources(
        cpus=max(1, member.get("cpus").whole(MAX_COUNT)),
        gpus=member.get("gpus").whole(MAX_COUNT),
        gpu_memory=_size(member.get("gpuMem")),
        ram=_size(member.get("ram")),
        hdd=_size(member.get("hdd")),
        gpu_count=member.get("gpuCount").whole(MAX_COUNT),
        gpu_type=member.get("gpuType").line(MAX_TYPE).strip(),
    )


def _request(experiment: Member, config: Member) -> Request:
    if experiment.missing:
        raise experiment.error("missing", remedy="send an object with the experiment's members")
    artifacts = read_artifacts(experiment.get("artifacts"))
    args = read_args(experiment.get("args"))
    return Request(
        key=_key(experiment.get("key")),
        filename=read_filename(
            experiment.get("filename"),
            args,
            containerised=any(a.tag == CONTAINER for a in artifacts),
        ),
        args=args,
        artifacts=artifacts,
        resources=read_resources(experiment.get("resources_needed")),
        python_version=read_python_version(experiment.get("pythonver")),
        python_packages=read_packages(experiment.get("pythonenv")),
        pip=read_packages(config.get("pip")),
        environment=read_environment(config.get("env")),
        max_duration=_max_duration(experiment.get("max_duration")),
        lifetime=config.get("experimentLifetime").duration(),
        time_added=_epoch(experiment.get("time_added")),
        save_interval=_interval(config.get("saveWorkspaceFrequency")),
        metrics_interval=_interval(config.get("saveMetricsFrequency")),
        storage=read_store(config.get("storage")),
        database=read_store(config.get("database")),
        owner=experiment.get("owner").line(),
        project=_label(experiment.get("project")),
        retries=_retries(config.get("runner").get("retries")),
        pythonenv=_pythonenv(config.get("runner").get("pythonenv")),
        slack_destination=_destination(config.get("runner").get("slack_destination")),
        document=json.dumps(experiment.value, separators=(",", ":")),
    )


def _sealed(envelope: Member) -> SealedRequest:
    return SealedRequest(
        resources=read_resources(envelope.get("resources_needed")),
        payload=envelope.get("payload").text(),
        signature=envelope.get("signature").text(),
        fingerprint=envelope.get("fingerprint").line(),
        # The Go client's spelling of it is the second.
        python_version=read_python_version(envelope.get("experiment").get("pythonver", "pthonver")),
        time_added=_epoch(envelope.get("time_added")),
    )


def _key(member: Member) -> str:
    key = member.line(MAX_KEY)
    if not key.strip():
        raise member.error("missing", remedy="give every experiment a key of its own")
    return key


def _max_duration(member: Member) -> float | None:
    seconds = member.duration()
    if seconds is not None and seconds <= 0:
        raise member.error("no time to run in", remedy="send a time above 0, or null for no limit")
    return seconds


def _interval(member: Member) -> float | None:
    """Clients let tiny, zero and negative intervals mean "as often as you can": 1 s here."""
    seconds = member.duration()
    return None if seconds is None else max(seconds, MIN_INTERVAL)


def _epoch(member: Member) -> float | None:
    number = member.number()
    if number is not None and abs(number) > MAX_EPOCH:
        raise member.error("no time of this age", remedy="send seconds since 1970")
    return number


def _retries(member: Member) -> RetryWish:
    """``config.runner.retries``: our own member, so nothing else than counts is taken for one."""
    infrastructure = member.get("infrastructure").number()
    payload = member.get("payload").number()
    for name, count in (("infrastructure", infrastructure), ("payload", payload)):
        if count is not None and (count < 0 or count != int(count)):
            raise member.get(name).error("not a count", remedy="send a whole number from 0")
    return RetryWish(
        None if infrastructure is None else int(infrastructure),
        None if payload is None else int(payload),
    )


def _pythonenv(member: Member) -> str:
    """``config.runner.pythonenv``, our own member: what becomes of ``pythonenv`` in a container."""
    wish = member.line()
    if wish not in ("", "image", "install"):
        raise member.error("neither image nor install", remedy="send one of these, or neither")
    return wish


def _destination(member: Member) -> str:
    """A room or person; what is not one line of text names none, and is no reason to refuse."""
    name = member.value
    if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_DESTINATION:
        return ""
    return name.strip()


def _size(member: Member) -> int:
    size = member.size()
    if size > MAX_SIZE:
        raise member.error("more than an exabyte", remedy="ask for what a node can have")
    return size


def _label(member: Member) -> str:
    """``project`` may be of any type; only text and numbers name one."""
    return "" if isinstance(member.value, (dict, list)) else member.line()
