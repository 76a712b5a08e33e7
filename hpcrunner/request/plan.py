"""The plan: all that the job side of one batch needs, in one private file.

The gateway writes it once, synced, mode 0600 (it holds the artifacts' credentials); each task
reads it by index. The compute node needs nothing else from the login node.

Spool layout of a batch (the folder given to ``python -m hpcrunner.job``)::

    plan.json            this plan
    script               the batch script
    claims/<index>       made by the task that runs the attempt: see claim.py
    events/<index>       append-only progress, one JSON object a line
    records/<index>.json written once, by rename: see record.py
    logs/<index>.out     the scheduler's output file: job-side notes and the payload's output

``index`` counts from 1, since DRMAA has no array index 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.faults import NO_RETRIES, RetriesLeft
from hpcrunner.request.hosts import HostRule
from hpcrunner.request.image import NO_IMAGES, ImageSetup, PlannedImage, image_setup_from
from hpcrunner.request.location import Location, TlsFiles
from hpcrunner.request.model import AwsCredentials

PLAN_VERSION = 1
PLAN_NAME = "plan.json"
SCRIPT_NAME = "script"
CLAIMS, EVENTS, RECORDS, LOGS = "claims", "events", "records", "logs"


class PlanError(HpcrunnerError):
    """The plan file is missing, damaged or of another version."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class Staged:
    """Of an artifact that the gateway carries between its store and the shared file system.

    ``address`` is where it is in the store, for people; ``name`` is what an object that is not
    unpacked is called there; ``documents`` is the folder for single files of ``_metadata``.
    """

    address: str
    name: str
    documents: str


@dataclass(frozen=True, slots=True)
class PlannedArtifact:
    """An artifact with its address resolved. ``save_frequency`` in seconds, or None."""

    tag: str
    location: Location
    mutable: bool
    unpack: bool | None
    save_frequency: float | None = None
    staged: Staged | None = None

    @property
    def address(self) -> str:
        """Where people find it."""
        return self.staged.address if self.staged else str(self.location)


@dataclass(frozen=True, slots=True)
class PlannedExperiment:
    """One attempt of one experiment, ready to run.

    ``name`` is safe as a folder name and becomes STUDIOML_EXPERIMENT. ``expires_at`` is epoch
    seconds. ``disk_budget`` is bytes, 0 for none. ``exec_words`` go before the payload's own
    words (a container's exec line, see batch/container.py for what is filled in on the node);
    ``pythonenv`` is the request's wish for its Python in there, "" for the site's. ``record`` is
    the client's database record, if it has one that the job side can write; ``document`` is its
    first content (JSON text). ``retries`` tells which failures are followed by another attempt.
    ``metrics_interval`` is in seconds. The job has asked for ``gpus`` devices of ``gpu_vendor``
    (``nvidia``, ``amd``, "" for unknown), each of ``gpu_memory`` bytes or more. ``image`` is
    the container's, None for a payload that runs without one. ``wheels`` is a folder with all
    that ``python_packages`` and ``pip`` need, "" where the node asks an index.
    """

    id: str
    key: str
    name: str
    attempt: int
    filename: str | None
    args: tuple[str, ...]
    artifacts: tuple[PlannedArtifact, ...]
    python_version: str = ""
    python_packages: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    max_duration: float | None = None
    expires_at: float | None = None
    disk_budget: int = 0
    save_interval: float = 600.0
    cpus: int = 1
    exec_words: tuple[str, ...] = ()
    record: Location | None = None
    document: str = field(default="{}", repr=False)
    gpus: int = 0
    gpu_vendor: str = ""
    gpu_memory: int = 0
    retries: RetriesLeft = NO_RETRIES
    metrics_interval: float = 60.0
    image: PlannedImage | None = None
    wheels: str = ""
    pythonenv: str = ""

    def installs(self, usual: str) -> bool:
        """Whether its packages are installed: in a container if it or the site says so.

        ``usual`` is the site's ``container.pythonenv``.
        """
        bare = self.image is None and not self.exec_words
        wish = "install" if bare else self.pythonenv or usual
        return wish == "install" and self.filename is not None


@dataclass(frozen=True, slots=True)
class ContainerSetup:
    """What the site says about payloads in containers, beyond the words of their exec line.

    ``isolation`` as in the site file. ``environment`` are names of the job's variables that are
    seen inside. ``pythonenv`` is ``image`` or ``install``, where the request does not say.
    """

    isolation: bool = True
    environment: tuple[str, ...] = ()
    pythonenv: str = "image"


@dataclass(frozen=True, slots=True)
class NodeSetup:
    """What the site says about its nodes.

    ``scratch`` and ``cache`` may hold ``$NAME`` words, expanded on the node. ``interpreters``
    maps "3.11" to an interpreter's path. ``time_limit`` is the scheduler's limit of the job in
    seconds (None: not known); the job side ends the payload ``grace`` seconds before it. ``keep``
    leaves the experiment's folder in place at the end. A payload that is to end gets the signal
    ``payload_signal`` (``TERM``, ``USR1`` or ``INT``) and ``payload_grace`` seconds. The
    scheduler kills ``kill_wait`` seconds after its own SIGTERM. job/limits.py has the budget.
    What lies unused in the cache for ``environments_kept`` seconds is removed (None: nothing).
    Immutable artifacts are kept below ``artifact_cache`` ("": ``cache``), at most
    ``artifact_cache_size`` bytes of them (0: none). ``disk_watched``: whether a payload whose
    folders outgrow its ``disk_budget`` is stopped. ``generate_metadata``: whether the
    attempt leaves documents in ``_metadata``, ``schema_logs``: with a log of what it prints.
    ``gpu_check`` is what is looked at of a job's GPUs: ``full``, ``count`` or ``none``.
    ``images`` tells how container images are pulled.
    """

    scratch: str
    cache: str
    interpreters: tuple[tuple[str, str], ...] = ()
    time_limit: float | None = None
    grace: float = 30.0
    keep: bool = False
    payload_signal: str = "TERM"
    payload_grace: float = 10.0
    kill_wait: float = 30.0
    environments_kept: float | None = None
    artifact_cache: str = ""
    artifact_cache_size: int = 0
    disk_watched: bool = False
    generate_metadata: bool = True
    schema_logs: bool = True
    gpu_check: str = "full"
    images: ImageSetup = NO_IMAGES
    container: ContainerSetup = ContainerSetup()


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch: its experiments by index (the first has index 1) and the site's node setup."""

    batch: str
    setup: NodeSetup
    experiments: tuple[PlannedExperiment, ...]

    def experiment(self, index: int) -> PlannedExperiment:
        """The experiment of a task index from 1.

        Raises PlanError where the batch has no such task.
        """
        if not 1 <= index <= len(self.experiments):
            raise PlanError(
                f"task {index} of a batch of {len(self.experiments)}",
                where=f"batch {self.batch}",
                remedy="start the script through the scheduler that the batch was submitted to",
            )
        return self.experiments[index - 1]

    def to_json(self) -> str:
        """The plan as JSON text, versioned."""
        return json.dumps({"version": PLAN_VERSION, **asdict(self)}, separators=(",", ":"))


def plan_from_json(text: str, *, where: str = "plan") -> Plan:
    """Read what ``Plan.to_json`` wrote. Raises PlanError on damage or another version."""
    try:
        raw = json.loads(text)
        version = raw["version"]
        if version != PLAN_VERSION:
            raise PlanError(
                f"plan version {version}, this hpcrunner reads {PLAN_VERSION}",
                where=where,
                remedy="run the job side with the version that the gateway has",
            )
        return Plan(
            batch=raw["batch"],
            setup=_setup(raw["setup"]),
            experiments=tuple(_experiment(e) for e in raw["experiments"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PlanError(
            f"not a plan ({type(error).__name__}: {error})",
            where=where,
            remedy="the spool may be damaged; the gateway can submit the experiments again",
        ) from error


def read_plan(batch_folder: Path) -> Plan:
    """Read the plan of a batch folder. Raises PlanError where it cannot be read."""
    path = batch_folder / PLAN_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"cannot read the plan ({error.strerror})",
            where=str(path),
            remedy="is the spool on a file system that this node sees?",
        ) from error
    except UnicodeDecodeError as error:
        raise PlanError(
            "not a plan (not UTF-8)", where=str(path), remedy="the spool may be damaged"
        ) from error
    return plan_from_json(text, where=str(path))


def location_from(raw: Mapping[str, Any]) -> Location:
    """A Location from its ``dataclasses.asdict`` form."""
    credentials, tls, hosts = raw.get("credentials"), raw.get("tls"), raw.get("hosts")
    fields = {k: v for k, v in raw.items() if k not in ("credentials", "tls", "hosts")}
    return Location(
        **fields,
        credentials=AwsCredentials(**credentials) if credentials else None,
        tls=TlsFiles(**tls) if tls else None,
        hosts=HostRule(tuple(hosts["allowed"])) if hosts else None,
    )


def _setup(raw: Mapping[str, Any]) -> NodeSetup:
    return NodeSetup(
        **{
            **raw,
            "interpreters": tuple((k, v) for k, v in raw["interpreters"]),
            "images": image_setup_from(raw.get("images")),
            "container": _container(raw.get("container", {})),
        }
    )


def _container(raw: Mapping[str, Any]) -> ContainerSetup:
    return ContainerSetup(**{**raw, "environment": tuple(raw.get("environment", ()))})


def _image(raw: Mapping[str, Any] | None) -> PlannedImage | None:
    if raw is None:
        return None
    location = location_from(raw["location"]) if raw["location"] else None
    return PlannedImage(**{**raw, "location": location})


def _experiment(raw: Mapping[str, Any]) -> PlannedExperiment:
    tuples = ("args", "python_packages", "pip", "exec_words")
    return PlannedExperiment(
        **{
            **raw,
            **{name: tuple(raw[name]) for name in tuples},
            "environment": tuple((k, v) for k, v in raw["environment"]),
            "artifacts": tuple(
                PlannedArtifact(
                    **{
                        **a,
                        "location": location_from(a["location"]),
                        "staged": Staged(**a["staged"]) if a.get("staged") else None,
                    }
                )
                for a in raw["artifacts"]
            ),
            "record": location_from(raw["record"]) if raw["record"] else None,
            "retries": RetriesLeft(**raw.get("retries", {})),
            "image": _image(raw.get("image")),
        }
    )
