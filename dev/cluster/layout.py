"""Where everything of the development cluster lives: paths, ports and names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import CannotHere

DEFAULT_STATE = "/var/tmp/hpcrunner-dev"
DEFAULT_PORT_BASE = 16800
PORTS_USED = 20


@dataclass(frozen=True)
class Node:
    """One pretended machine, played by its own slurmd."""

    name: str
    memory_mb: int
    gpu_type: str | None = None
    gpus: int = 0
    cpus: int = 8


@dataclass(frozen=True)
class Partition:
    """One Slurm partition; max_time is in Slurm's own notation."""

    name: str
    nodes: tuple[str, ...]
    max_time: str
    max_time_seconds: int
    default: bool = False
    allow_qos: str | None = None


# Memory and GPU types differ between the nodes so that a wrong choice of node shows.
NODES = (
    Node("n0", 7000, "a100", 4),
    Node("n1", 6000, "v100", 4),
    Node("n2", 8000),
)

PARTITIONS = (
    Partition("cpu", ("n2",), "1-00:00:00", 86400, default=True),
    Partition("gpu", ("n0", "n1"), "2-00:00:00", 172800),
    Partition("short", ("n0", "n1", "n2"), "00:02:00", 120),
    Partition("low", ("n0", "n1", "n2"), "1-00:00:00", 86400, allow_qos="low"),
)

CLUSTER_NAME = "hpcdev"
USER = "researcher"
ACCOUNT = "research"
LIMITED_ACCOUNT = "limited"
LIMITED_MAX_SUBMIT = 20
QOS = ("normal", "low", "high")
BUCKET = "studioml"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Layout:
    """Paths below the state directory and ports above the port base."""

    state: Path
    port_base: int = DEFAULT_PORT_BASE

    @staticmethod
    def from_environment(environ: Mapping[str, str] = os.environ) -> Layout:
        """Read HPCRUNNER_DEV_DIR and HPCRUNNER_DEV_PORT_BASE."""
        state = Path(environ.get("HPCRUNNER_DEV_DIR") or DEFAULT_STATE)
        if not state.is_absolute() or len(state.parts) < 3:
            raise CannotHere(f"HPCRUNNER_DEV_DIR must be absolute and not a top folder: {state}")
        if any(character.isspace() or character in "\"'#,[]%" for character in str(state)):
            # Slurm's configuration has no quoting, and gives some of these a meaning.
            raise CannotHere(f"HPCRUNNER_DEV_DIR must be a plain path: {state}")
        text = environ.get("HPCRUNNER_DEV_PORT_BASE") or str(DEFAULT_PORT_BASE)
        if not text.isdecimal() or not 1024 <= int(text) <= 65535 - PORTS_USED:
            raise CannotHere(f"HPCRUNNER_DEV_PORT_BASE is not a usable port: {text}")
        return Layout(state, int(text))

    # --- files everybody may read -------------------------------------------------------

    @property
    def facts(self) -> Path:
        """cluster.json: what a test or a person needs to use the cluster."""
        return self.state / "cluster.json"

    @property
    def slurm_conf(self) -> Path:
        """The slurm.conf of this cluster."""
        return self.slurm / "slurm.conf"

    @property
    def home(self) -> Path:
        """Home of the ordinary user."""
        return self.state / "home" / USER

    @property
    def venv(self) -> Path:
        """Virtual environment of the ordinary user."""
        return self.state / "venv"

    @property
    def log(self) -> Path:
        """One log file per daemon."""
        return self.state / "log"

    # --- our own ------------------------------------------------------------------------

    @property
    def lock(self) -> Path:
        """Held by a command that changes the cluster."""
        return self.state / "lock"

    @property
    def secrets(self) -> Path:
        """Passwords and keys, made once."""
        return self.state / "secrets.json"

    @property
    def settings(self) -> Path:
        """Knobs as last given."""
        return self.state / "settings.json"

    @property
    def pids(self) -> Path:
        """One file per started daemon."""
        return self.state / "pids"

    @property
    def tools(self) -> Path:
        """Virtual environment with rclone's binary."""
        return self.state / "tools"

    @property
    def apptainer(self) -> Path:
        """Apptainer where the machine has none of its own, and the images."""
        return self.state / "apptainer"

    @property
    def wheels(self) -> Path:
        """Copies of the wheels installed for the user, who may not read the originals."""
        return self.state / "wheels"

    @property
    def slurm(self) -> Path:
        """Configuration, state and spool of Slurm."""
        return self.state / "slurm"

    @property
    def gridengine(self) -> Path:
        """Packages, configuration and spool of Grid Engine."""
        return self.state / "gridengine"

    @property
    def gridengine_root(self) -> Path:
        """Its SGE_ROOT, laid out as on clusters that have it from its own releases."""
        return self.gridengine / "root"

    @property
    def munge(self) -> Path:
        """Key and socket of munged."""
        return self.state / "munge"

    @property
    def munge_socket(self) -> Path:
        """The socket every Slurm command talks to."""
        return self.munge / "socket"

    @property
    def mariadb(self) -> Path:
        """Data and socket of MariaDB."""
        return self.state / "mariadb"

    @property
    def rabbitmq(self) -> Path:
        """Configuration and data of RabbitMQ."""
        return self.state / "rabbitmq"

    @property
    def s3(self) -> Path:
        """The folder the S3 server serves: one folder per bucket."""
        return self.state / "s3"

    # --- ports --------------------------------------------------------------------------

    @property
    def slurmctld_port(self) -> int:
        """Slurm controller."""
        return self.port_base

    @property
    def slurmdbd_port(self) -> int:
        """Slurm accounting."""
        return self.port_base + 1

    @property
    def mariadb_port(self) -> int:
        """MariaDB, which only slurmdbd uses."""
        return self.port_base + 2

    @property
    def amqp_port(self) -> int:
        """RabbitMQ, AMQP 0-9-1."""
        return self.port_base + 3

    @property
    def management_port(self) -> int:
        """RabbitMQ's HTTP management."""
        return self.port_base + 4

    @property
    def erlang_port(self) -> int:
        """RabbitMQ's Erlang distribution."""
        return self.port_base + 5

    @property
    def epmd_port(self) -> int:
        """Erlang's name service; not the usual one, which may belong to somebody else."""
        return self.port_base + 6

    @property
    def s3_port(self) -> int:
        """S3 server."""
        return self.port_base + 7

    @property
    def qmaster_port(self) -> int:
        """Grid Engine's master, on all interfaces: it knows no other way."""
        return self.port_base + 14

    @property
    def execd_port(self) -> int:
        """Grid Engine's one execution host."""
        return self.port_base + 15

    def slurmd_port(self, node: Node) -> int:
        """The port of one node's slurmd."""
        return self.port_base + 10 + NODES.index(node)
