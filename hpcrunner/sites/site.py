"""A site: one cluster as a person with an account there knows it. Read by ``sites.load``.

The descriptions here are the text of docs/site-config.md; a test keeps both the same.
Units: bytes, seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hpcrunner.sites.container import Container
from hpcrunner.sites.contradictions import contradictions
from hpcrunner.sites.gpus import Gpus
from hpcrunner.sites.gridengine import GridEngine
from hpcrunner.sites.hostvalues import Host
from hpcrunner.sites.part import Part
from hpcrunner.sites.parts import (
    S3,
    Accounting,
    ArtifactCache,
    ClearText,
    Defaults,
    Drmaa,
    Limits,
    Local,
    Partition,
    Polling,
    Retention,
    Retries,
    SiteDirective,
)
from hpcrunner.sites.pyslurm import Pyslurm
from hpcrunner.sites.rules import QueueWeight, Rule
from hpcrunner.sites.values import (
    MIB,
    Allowance,
    Lines,
    LoginPath,
    Memory,
    NodePath,
    Program,
    PythonVersion,
    Seconds,
    SlurmName,
    StoreAddress,
    Switch,
    Text,
    Variable,
)


class Site(Part):
    """A site config. ``sites.load.load_site`` reads one from YAML."""

    name: SlurmName = Field(
        default="site", description="Name of the site; left out: the file's.", examples=["hpc2"]
    )
    extends: Text | None = Field(
        default=None,
        description="Site that this one starts from: a name, or a path, which counts from this "
        "file's folder; docs/sites.md.",
        examples=["generic-slurm", "../base.yaml"],
    )
    description: Text = Field(default="", description="For people.")
    needs: tuple[Literal["account", "qos"], ...] = Field(
        default=(),
        description="Keys that only each user knows, and without which the cluster takes no job: "
        "the site cannot be used before a file that extends this one sets them.",
        examples=["account"],
    )
    scheduler: Literal["auto", "drmaa", "sbatch", "pyslurm", "gridengine", "local"] = Field(
        default="auto",
        description="Slurm by `drmaa` or by `sbatch`; `auto` takes DRMAA if its library loads and "
        "answers and can carry all `directives`, else sbatch. `pyslurm` is Slurm by the library of "
        "that name; docs/pyslurm.md. `gridengine` is Grid Engine by its DRMAA library; "
        "docs/grid-engine.md. `local` runs jobs on this machine.",
    )
    spool: LoginPath = Field(
        default="~/.hpcrunner",
        description="Folder of journal, scripts, plans and records, on a file system that all "
        "nodes share.",
        examples=["/home/$USER/hpcrunner"],
    )
    scratch: NodePath = Field(
        default="/tmp",  # noqa: S108 - experiments make private folders of their own in it
        description="Folder on the node for running experiments; best a local disk.",
        examples=["$TMPDIR"],
    )
    cache: NodePath = Field(
        default="~/.cache/hpcrunner",
        description="Folder for Python environments and packages that experiments share.",
        examples=["/scratch/$USER/hpcrunner"],
    )
    artifact_cache: ArtifactCache = Field(
        default=ArtifactCache(),
        description="Immutable artifacts from S3, Google and the web, kept for other jobs.",
    )
    allow_env_secrets: Switch = Field(
        default=True,
        description="Whether artifacts without credentials of their own, and without any in "
        "`config.storage`, may use the AWS keys in the request's `config.env`.",
    )
    s3: S3 = Field(default=S3(), description="TLS of S3 servers other than AWS's own.")
    generate_metadata: Switch = Field(
        default=True,
        description="Whether each attempt of a request with a mutable `_metadata` artifact leaves "
        "`metadata/scrape-host-….json` in its bucket; docs/metadata.md.",
    )
    schema_logs: Switch = Field(
        default=True,
        description="Whether that document has a log of what the payload prints.",
    )
    metadata_store: StoreAddress | None = Field(
        default=None,
        description="Where the gateway writes a document for each experiment that has ended, "
        "credentials masked. A bucket is used with the credentials of the gateway's environment.",
        examples=["/shared/group/experiments", "s3://bucket/experiments"],
    )
    python: Program = Field(
        default_factory=lambda: sys.executable,
        description="Interpreter on the nodes that has hpcrunner installed in its own "
        "environment; left out: the gateway's.",
        examples=["~/hpcrunner/bin/python"],
    )
    interpreters: dict[PythonVersion, Program] = Field(
        default_factory=dict,
        description="Interpreters for the payloads, by version.",
        examples=['{"3.11": /opt/python3.11/bin/python}'],
    )
    partitions: tuple[Partition, ...] = Field(
        default=(),
        description="Partitions in the order in which they are tried, where GPUs do not decide "
        "(`gpus.choice`); left out: Slurm's default partition, without GPUs.",
    )
    gpus: Gpus = Field(
        default=Gpus(), description="How requests for GPUs are read, and how the choice is made."
    )
    gpu_syntax: Literal["gres", "gpus-per-node", "gpus", "none"] = Field(
        default="gres",
        description="Option that asks for GPUs: `--gres=gpu:a100:2`, `--gpus-per-node=a100:2` or "
        "`--gpus=a100:2`. Through DRMAA, and of shards, it is always `gres`. `none` where a "
        "partition's whole nodes, GPUs and all, are given to each job without being asked for.",
    )
    memory_syntax: Literal["mem", "mem-per-cpu", "none"] = Field(
        default="mem",
        description="Option that asks for memory; `none` where the site forbids it.",
    )
    least_memory: Memory = Field(
        default_factory=lambda: 1024 * MIB,
        description="Least memory of a job whose request names less: its packages are installed "
        "in it before the payload starts. Left out: `1G`.",
        examples=["2G"],
    )
    tmp: Switch = Field(
        default=False, description="Whether `hdd` of the request is asked for with `--tmp`."
    )
    enforce_disk: Switch = Field(
        default=False,
        description="Whether a payload is stopped when its folders hold more than `hdd` of the "
        "request; looked at once a minute. What is fetched for it may never exceed that.",
    )
    account: SlurmName | None = Field(
        default=None, description="Account to charge.", examples=["research"]
    )
    qos: SlurmName | None = Field(default=None, description="QOS of the jobs.", examples=["normal"])
    directives: tuple[SiteDirective, ...] = Field(
        default=(),
        description="More options for every job, long ones only. What hpcrunner says itself is "
        "refused, with the key to use instead.",
        examples=["--reservation=course"],
    )
    export: Literal["NONE", "NIL", "ALL"] = Field(
        default="NONE",
        description="sbatch's `--export`. `NONE`: the user's login environment is made anew on "
        "the node; `NIL` (from Slurm 23.02.3): nothing but `SLURM_*`; `ALL`: the gateway's, "
        "after all but a few harmless variables are taken out. DRMAA always does as `ALL`.",
    )
    environment: dict[Variable, Text] = Field(
        default_factory=dict,
        description="Variables for every job. They stand in the batch script: no secrets.",
        examples=["{https_proxy: http://proxy:3128}"],
    )
    modules: tuple[Text, ...] = Field(
        default=(),
        description="Modules to load before the job side starts; a failure ends the job.",
        examples=["cuda/12.4"],
    )
    prologue: tuple[Lines, ...] = Field(
        default=(),
        description="Lines of bash before the job side starts, taken as they are.",
        examples=["ulimit -c 0"],
    )
    templates: LoginPath | None = Field(
        default=None,
        description="Folder with the site's own batch templates; what it lacks is taken from the "
        "shipped ones.",
    )
    requeue: Switch = Field(
        default=False,
        description="Whether Slurm may start a job again after preemption or a node's failure.",
    )
    grace: Seconds = Field(
        default=30.0,
        description="Seconds before the time limit at which the job side ends the payload and "
        "saves. With sbatch also the `--signal=B:USR1@` of the job.",
        examples=["300"],
    )
    kill_wait: Seconds = Field(
        default=30.0,
        description="`KillWait` of `scontrol show config`: how long after the SIGTERM of a "
        "cancellation, preemption or time limit Slurm kills a job. The payload's end and the "
        "saves are fitted into it.",
    )
    payload_signal: Literal["TERM", "USR1", "INT"] = Field(
        default="TERM",
        description="First signal to a payload that is to end. `TERM` goes to all its processes, "
        "the others to its first one alone.",
    )
    payload_grace: Seconds = Field(
        default=10.0,
        description="Seconds that the payload has after that signal, to save what it wants to go "
        "on with. Never more than half of what is left before the job is killed.",
        examples=["120"],
    )
    staging: Literal["node", "gateway"] = Field(
        default="node",
        description="Who carries artifacts, Python packages and images: each node itself, or, for "
        "nodes without a network, the gateway, through the shared file system; "
        "docs/offline-nodes.md.",
    )
    staging_dir: LoginPath | None = Field(
        default=None,
        description="Folder through which the gateway carries them, on a file system that all "
        "nodes share; left out: `staging` in the spool.",
        examples=["/scratch/$USER/hpcrunner-staging"],
    )
    gateway_hosts: tuple[Host, ...] | None = Field(
        default=None,
        description="Hosts that a message may have the gateway contact, where it fetches and "
        "stores for the nodes; `public` stands for the internet. Left out: `[public]`. Where it "
        "is set it holds for clients' database records, too, whoever does the rest; where it is "
        "not, and the nodes do the rest, these go anywhere but to link-local addresses and where "
        "clouds keep credentials; docs/offline-nodes.md.",
        examples=["public", "10.1.2.0/24", ".example.org"],
    )
    gateway_credentials: Switch = Field(
        default=False,
        description="Whether the gateway asks with credentials of its own (its environment, "
        "`~/.aws`, its machine's role) for what a message brings none for.",
    )
    staging_allowance: Allowance = Field(
        default=600,
        description="Time for artifacts and the Python environment, added to the request's "
        "`max_duration`.",
    )
    settle: Seconds = Field(
        default=60.0,
        description="How long a submission whose fate is unknown may stay invisible before it is "
        "made again.",
    )
    record_wait: Seconds = Field(
        default=90.0,
        description="How long a job's record may show late on the shared file system before its "
        "ending is judged without it.",
    )
    lost_after: Seconds = Field(
        default=300.0,
        description="How long a job without a record must be unknown to every healthy witness, "
        "without a break, before it counts as lost.",
    )
    stuck_after: Seconds = Field(
        default=3600.0,
        description="How long a job may wait for a reason that does not pass by itself "
        "(`PartitionTimeLimit`, `BadConstraints` …), or be refused in words that do not say "
        "whether it ever will be taken, before it is set aside with that reason.",
    )
    repeat_window: Seconds = Field(
        default=3600.0,
        description="For how long after an experiment's end a message with the very same bytes "
        "is taken for a copy, and not for a wish to run it again. What `hpcrunner submit` "
        "publishes is always run.",
    )
    clear_text: tuple[ClearText, ...] = Field(
        default=(),
        description="Queues that are an exception from `--clear-text-messages`; the first whose "
        "pattern fits counts. What `hpcrunner submit` publishes is always taken.",
    )
    rules: tuple[Rule, ...] = Field(
        default=(),
        description="What the jobs of whom get; the first rule that fits counts. With any rule, "
        "what none fits is set aside. docs/sharing.md.",
    )
    queue_weights: tuple[QueueWeight, ...] = Field(
        default=(),
        description="Queues that have more turns than others; the first whose pattern fits counts.",
    )
    retries: Retries = Field(
        default=Retries(), description="When an experiment that failed gets another attempt."
    )
    retention: Retention = Field(
        default=Retention(), description="How long what has ended is kept."
    )
    defaults: Defaults = Field(
        default=Defaults(), description="What a job gets where the request does not say."
    )
    limits: Limits = Field(default=Limits(), description="What the site bears.")
    accounting: Accounting = Field(
        default=Accounting(),
        description="Where endings are looked up after the scheduler forgot a job.",
    )
    polling: Polling = Field(default=Polling(), description="How often the scheduler is asked.")
    container: Container = Field(
        default=Container(), description="How a request's `_singularity` image is run."
    )
    drmaa: Drmaa = Field(default=Drmaa(), description="The DRMAA library.")
    pyslurm: Pyslurm = Field(default=Pyslurm(), description="The pyslurm library.")
    gridengine: GridEngine = Field(
        default=GridEngine(), description="How Grid Engine is asked for what a job needs."
    )
    local: Local = Field(
        default_factory=Local, description="This machine, for the scheduler `local`."
    )

    @property
    def spool_path(self) -> Path:
        """The spool as a path."""
        return Path(self.spool)

    @property
    def gateway_fetches(self) -> bool:
        """Whether the gateway fetches for the nodes whatever a message names: all, or images."""
        return "gateway" in (self.staging, self.container.pull)

    @model_validator(mode="after")
    def _consistent(self) -> Site:
        found = contradictions(self)
        if found:
            raise PydanticCustomError("contradictions", "contradictions", {"found": found})
        return self
