"""What a scheduler says to a job: the variables that it sets, and the signals that it sends.

One table for each kind of scheduler; all else on the node asks these tables. Slurm's variables are
in sbatch(1), Grid Engine's in qsub(1), the section on environment variables; the local
scheduler says nothing of this kind.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

# Whatever begins with these is a scheduler's to say, not a request's.
PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SGE_")
# Where a scheduler's commands find it, for jobs that call them too.
CONFIGURATION = ("SLURM_CONF",)


@dataclass(frozen=True, slots=True)
class SchedulerWords:
    """Names of variables, empty where there is none.

    ``array`` and ``task`` are set in a job that is a task of an array; the id of such is that of
    the array, ``joint`` and the index. ``cpus``, ``gpus`` and ``gpu_count`` say what the job was
    given; ``device_lists`` hold the numbers of its devices, parted by blanks, which nobody has told
    the vendors' libraries. ``facts`` are for people. ``cgroup`` is the folder of a job's own memory
    cgroup, with its id.

    ``warnings`` are signals after which the kill follows. Those that are ``ignored`` mean nothing
    for the job; ``spared`` ones the payload does not have to bear, for they go to all processes
    and are meant for us. ``tells_all``: SIGTERM goes to all processes too.
    ``reserved`` are exit statuses by which a job would ask the scheduler for something.
    """

    name: str = ""
    job: str = ""
    array: str = ""
    task: str = ""
    joint: str = "_"
    restarts: str = ""
    start: str = ""
    end: str = ""
    cpus: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    gpu_count: str = ""
    device_lists: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    cgroup: str = ""
    warnings: frozenset[int] = frozenset({signal.SIGTERM})
    ignored: frozenset[int] = frozenset()
    spared: frozenset[int] = frozenset()
    tells_all: bool = False
    reserved: frozenset[int] = frozenset()

    @property
    def variables(self) -> frozenset[str]:
        """All that is named here."""
        named = (self.job, self.array, self.task, self.restarts, self.start, self.end)
        lists = (*self.cpus, *self.gpus, self.gpu_count, *self.device_lists)
        return frozenset((*named, *lists, *(word for _, word in self.facts))) - {""}

    def job_id(self, environ: Mapping[str, str]) -> str:
        """The job's id in the words its submitter knows; empty where no scheduler names one."""
        array, task = environ.get(self.array), environ.get(self.task)
        if array and task and task.isdecimal():
            return f"{array}{self.joint}{task}"
        return environ.get(self.job, "")

    def restart_count(self, environ: Mapping[str, str]) -> int:
        """How often the job was started again, as far as the scheduler counts."""
        try:
            return int(environ.get(self.restarts, "0"))
        except ValueError:
            return 0

    def said(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The facts that are set."""
        return {name: environ[word] for name, word in self.facts if environ.get(word)}

    def exit_status(self, status: int) -> int:
        """A status that asks the scheduler for nothing."""
        return 1 if status in self.reserved else status


SLURM = SchedulerWords(
    name="slurm",
    job="SLURM_JOB_ID",
    array="SLURM_ARRAY_JOB_ID",
    task="SLURM_ARRAY_TASK_ID",
    # Set from the first restart on.
    restarts="SLURM_RESTART_COUNT",
    # Newer releases set these, also where no limit was asked for.
    start="SLURM_JOB_START_TIME",
    end="SLURM_JOB_END_TIME",
    cpus=("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"),
    gpus=("SLURM_JOB_GPUS", "SLURM_STEP_GPUS"),
    gpu_count="SLURM_GPUS_ON_NODE",
    facts=(
        ("job_id", "SLURM_JOB_ID"),
        ("array_job_id", "SLURM_ARRAY_JOB_ID"),
        ("array_task_id", "SLURM_ARRAY_TASK_ID"),
        ("cluster", "SLURM_CLUSTER_NAME"),
        ("partition", "SLURM_JOB_PARTITION"),
        ("node", "SLURMD_NODENAME"),
    ),
    cgroup="job_{}",
    tells_all=True,
)
# Where GPUs are a resource map (Univa's and later), by the names that sites give it most.
_RESOURCE_MAPS = ("SGE_HGR_gpu", "SGE_HGR_gpus", "SGE_HGR_cuda", "SGE_HGR_ngpus")
GRID_ENGINE = SchedulerWords(
    name="gridengine",
    job="JOB_ID",
    array="JOB_ID",
    task="SGE_TASK_ID",  # "undefined" in a job that is no array
    joint=".",
    restarts="RESTARTED",  # 1 after any number of restarts
    cpus=("NSLOTS",),
    gpus=_RESOURCE_MAPS,
    device_lists=_RESOURCE_MAPS,
    facts=(
        ("job_id", "JOB_ID"),
        ("array_task_id", "SGE_TASK_ID"),
        ("cluster", "SGE_CLUSTER_NAME"),
        ("partition", "QUEUE"),
        ("node", "HOSTNAME"),
    ),
    # With -notify: USR2 before a kill, USR1 before a mere suspension.
    warnings=frozenset({signal.SIGTERM, signal.SIGUSR2}),
    ignored=frozenset({signal.SIGUSR1}),
    spared=frozenset({signal.SIGUSR2}),
    tells_all=True,
    # 99 runs the job again, 100 sets it aside in the error state.
    reserved=frozenset({99, 100}),
)
NO_SCHEDULER = SchedulerWords()


def _own(words: SchedulerWords) -> frozenset[str]:
    """The variables that no other scheduler sets."""
    named = (words.job, words.array, words.task, words.restarts, words.start, words.end)
    return frozenset(
        name
        for name in (*named, *words.cpus, *words.gpus, words.gpu_count)
        if name.startswith(PREFIXES)
    )


_BY_VARIABLES = tuple((_own(words), words) for words in (SLURM, GRID_ENGINE))


def words_of(environ: Mapping[str, str]) -> SchedulerWords:
    """The words of the scheduler that started this job, by what it has set."""
    return next(
        (words for own, words in _BY_VARIABLES if not own.isdisjoint(environ)), NO_SCHEDULER
    )
