"""The state of the fake: what slurmctld has in memory, and what slurmdbd has written down.

Facts modelled here and seen on 22.05.8: waiting tasks of an array are one record; those that are
cancelled leave it without a trace, and when none is left the record stays as ``CANCELLED``
without a task index; accounting keeps that record's list of tasks as it was; an ended job is
shown until MinJobAge; a requeued job keeps its id, gets a new submit time, and its first account
stays the newest until the job starts again.
"""

from __future__ import annotations

ENDED = frozenset(
    {
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "NODE_FAIL",
        "BOOT_FAIL",
        "LAUNCH_FAILED",
        "PREEMPTED",
        "DEADLINE",
        "REVOKED",
    }
)
UP, DOWN, HANGS = "up", "down", "hangs"


class Task:
    """A job, or one task of an array. ``number`` is its own job id, 0 within the array's record.

    ``word`` is the base state; ``flag`` is what squeue shows instead while it is set.
    ``told`` is True once scancel or a preemption has sent it SIGTERM.
    """

    def __init__(self, index: int | None, number: int, submitted: float) -> None:
        self.index = index
        self.number = number
        self.submitted = submitted
        self.word = "PENDING"
        self.flag = ""
        self.reason = "None"
        self.node = ""
        self.start: float | None = None
        self.end: float | None = None
        self.restarts = 0
        self.told = False
        self.requeues = False

    @property
    def shown(self) -> str:
        """The word in squeue's %T."""
        return self.flag or self.word

    @property
    def waits(self) -> bool:
        """True while it may be started."""
        return self.word == "PENDING" and not self.flag

    @property
    def runs(self) -> bool:
        """True while it holds a node."""
        return self.word == "RUNNING" or self.flag == "COMPLETING"


class Job:
    """One submission. ``record`` is the word of an array's record whose last tasks are gone."""

    def __init__(self, base: int, options: dict[str, str], script: str, now: float) -> None:
        self.base = base
        self.name = options["job-name"]
        self.folder = options["chdir"]
        self.output = options["output"]
        self.script = script
        self.options = options
        self.submitted = now
        self.record = ""
        self.record_end = 0.0
        self.listed: list[int] = []  # the tasks in the array's record, as accounting has them
        self.tasks: dict[int | None, Task] = {}
        if "array" in options:
            first, _, last = options["array"].partition("-")
            self.listed = list(range(int(first), int(last) + 1))
            self.tasks = {index: Task(index, 0, now) for index in self.listed}
        else:
            self.tasks = {None: Task(None, base, now)}

    @property
    def is_array(self) -> bool:
        return "array" in self.options

    @property
    def requeues(self) -> bool:
        """Whether Slurm may start it again of itself."""
        return "requeue" in self.options


class Account:
    """One row of accounting, with its steps as (name, word, exit code field)."""

    def __init__(self, job: Job, index: int | None, submitted: float) -> None:
        self.base = job.base
        self.name = job.name
        self.index = index
        self.tasks: list[int] | None = None
        self.word = "PENDING"
        self.by = ""
        self.exit = "0:0"
        self.submitted = submitted
        self.start = "Unknown"
        self.end = "Unknown"
        self.node = "None assigned"
        self.steps: tuple[tuple[str, str, str], ...] = ()


class Fault:
    """Something that goes wrong with one call of ``program``; see commands.py for the kinds."""

    def __init__(self, program: str, kind: str, value: object = None) -> None:
        self.program = program
        self.kind = kind
        self.value = value


class Cluster:
    """Everything. ``settle(now)`` first, whatever is asked: it lets due things happen."""

    def __init__(self, *, min_job_age: float = 300.0, max_array_size: int = 1001) -> None:
        self.controller = UP
        self.database = UP
        self.accounting = True
        self.lag = 0.0  # s until a change shows in accounting
        self.min_job_age = min_job_age
        self.max_array_size = max_array_size
        self.next_id = 1
        self.jobs: dict[int, Job] = {}
        self.accounts: dict[tuple[int, object, float], Account] = {}
        self.outbox: list[tuple[float, tuple[int, object, float], dict[str, object]]] = []
        self.late: list[tuple[float, dict[str, str], str]] = []
        self.rows_of_others: list[str] = []
        self.faults: list[Fault] = []
        self.calls: list[str] = []  # programs, in the order of their calls
        self.complaints: list[str] = []  # argv that no Slurm would take
        # Tasks that were cancelled while they waited, as (batch folder, index).
        self.never_started: list[tuple[str, int | None]] = []
        self.taken: list[str] = []  # the name of every submission that was taken
        self.uid = 1001

    # -- what happens of itself ------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Submissions whose answer was lost arrive, accounts become visible, old jobs go."""
        if self.controller != UP:
            return
        for due in [entry for entry in self.late if entry[0] <= now]:
            self.late.remove(due)
            self.submit(due[1], due[2], now)
        if self.database == UP:
            while self.outbox and self.outbox[0][0] <= now:
                _, key, values = self.outbox.pop(0)
                fresh = values.pop("row", None)
                row = self.accounts.setdefault(key, fresh)  # type: ignore[arg-type]
                for name, value in values.items():
                    setattr(row, name, value)
        oldest = now - self.min_job_age
        for job in list(self.jobs.values()):
            for index, task in list(job.tasks.items()):
                over = task.word in ENDED and not task.flag
                if over and task.end is not None and task.end < oldest:
                    del job.tasks[index]
            if not job.tasks and (not job.record or job.record_end < oldest):
                del self.jobs[job.base]

    def fault(self, program: str) -> Fault | None:
        """The next fault of that program, used up."""
        for fault in self.faults:
            if fault.program == program:
                self.faults.remove(fault)
                return fault
        return None

    # -- what the commands do --------------------------------------------------------------

    def submit(self, options: dict[str, str], script: str, now: float) -> int:
        """Take a job; returns its id."""
        base = self.next_id
        self.next_id += 1
        self.taken.append(options["job-name"])
        job = self.jobs[base] = Job(base, options, script, now)
        row = Account(job, None, now)
        if job.is_array:
            row.tasks = list(job.listed)
        self._tell(job, "record" if job.is_array else None, now, now, row=row)
        return base

    def cancel(self, base: int, indexes: list[int] | None, now: float) -> None:
        """scancel of a whole job, or of these tasks; what is gone is no error."""
        job = self.jobs.get(base)
        if job is None:
            return
        chosen = [t for t in job.tasks.values() if indexes is None or t.index in indexes]
        for task in chosen:
            if task.number and task.waits:
                self._cancel_waiting(job, task, now)
            elif task.word == "RUNNING" and not task.flag:
                task.word, task.flag, task.told = "CANCELLED", "COMPLETING", True
                task.end, task.requeues = now, False
                self._account_of(job, task, now, by=f" by {self.uid}")
            elif task.flag == "COMPLETING" and task.requeues:
                task.word, task.requeues = "CANCELLED", False
                self.never_started.append((job.folder, task.index))
                self._account_of(job, task, now, by=f" by {self.uid}")
            elif task.flag and not task.runs:  # held
                task.flag = ""
                self._cancel_waiting(job, task, now)
        waiting = [t for t in job.tasks.values() if t.number == 0]
        going = [t for t in waiting if indexes is None or t.index in indexes]
        if not going:
            return
        if len(going) == len(waiting):
            job.record, job.record_end = "CANCELLED", now
            self._tell(
                job, "record", job.submitted, now, word="CANCELLED", by=f" by {self.uid}",
                start="None", end=str(int(now)),
            )  # fmt: skip
        for task in going:
            self.never_started.append((job.folder, task.index))
            if indexes is None:  # scancel of the whole job keeps its list of tasks
                task.word, task.end = "CANCELLED", now
            else:
                del job.tasks[task.index]

    def _cancel_waiting(self, job: Job, task: Task, now: float) -> None:
        task.word, task.end = "CANCELLED", now
        self.never_started.append((job.folder, task.index))
        self._account_of(job, task, now, by=f" by {self.uid}", start=str(int(now)))

    # -- what the cluster does with jobs ---------------------------------------------------

    def start(self, base: int, index: int | None, node: str, now: float) -> dict[str, str]:
        """Start a waiting task; returns the variables that Slurm sets for it."""
        job = self.jobs[base]
        task = job.tasks[index]
        self._split(job, task)
        task.word, task.node, task.start, task.end = "RUNNING", node, now, None
        task.reason, task.told = "None", False
        steps = (("batch", "RUNNING", "0:0"),)
        self._tell(
            job, index, task.submitted, now, row=Account(job, index, task.submitted),
            word="RUNNING", start=str(int(now)), end="Unknown", node=node, steps=steps,
        )  # fmt: skip
        variables = {"SLURM_JOB_ID": str(task.number), "SLURM_JOB_NAME": job.name}
        if task.restarts:
            variables["SLURM_RESTART_COUNT"] = str(task.restarts)
        if index is not None:
            variables |= {"SLURM_ARRAY_JOB_ID": str(base), "SLURM_ARRAY_TASK_ID": str(index)}
        return variables

    def tell(self, base: int, index: int | None, now: float, *, requeue: bool = False) -> None:
        """A running task gets SIGTERM to be preempted (or is requeued) and ends soon after."""
        task = self.jobs[base].tasks[index]
        task.flag, task.word, task.told = "COMPLETING", "PREEMPTED", True
        task.end, task.requeues = now, requeue
        self._account_of(self.jobs[base], task, now)

    def end(
        self,
        base: int,
        index: int | None,
        word: str,
        now: float,
        *,
        code: int = 0,
        signal: int = 0,
        step: str = "",
        requeue: bool = False,
        completing: bool = False,
    ) -> None:
        """End a task. ``step`` is the word of a step that ended in another way than the job.

        ``requeue`` puts it back to wait. ``completing`` leaves it shown as COMPLETING until
        ``completed``.
        """
        job = self.jobs[base]
        task = job.tasks[index]
        self._split(job, task)
        task.word, task.end, task.flag = word, now, "COMPLETING" if completing else ""
        task.reason = "None"
        field = f"{code}:{signal}"
        steps = (("batch", "CANCELLED" if word == "TIMEOUT" else word, field),)
        if step:
            steps += (("0", step, "0:125" if step == "OUT_OF_MEMORY" else field),)
        if not task.node:
            steps = ()
        if requeue:
            task.requeues = True
        if word == "OUT_OF_MEMORY":
            field = "0:125"
        self._account_of(job, task, now, exit=field, steps=steps)
        if not completing:
            self._requeued(task, now)

    def completed(self, base: int, index: int | None, now: float) -> None:
        """The node is done with a task that is shown as COMPLETING."""
        task = self.jobs[base].tasks[index]
        task.flag, task.told = "", False
        task.end = now
        self._requeued(task, now)

    def requeue(self, base: int, index: int | None, now: float, *, hold: str = "") -> None:
        """scontrol requeue of a running or ended task; ``hold`` is REQUEUE_HOLD or SPECIAL_EXIT."""
        job = self.jobs[base]
        task = job.tasks[index]
        running = task.runs
        task.requeues = True
        self._account_of(job, task, now, word="REQUEUED")
        if running:
            task.flag, task.told, task.end = "COMPLETING", True, now
        else:
            self._requeued(task, now)
        if hold and not running:
            task.flag, task.reason = hold, "JobHeldAdmin"

    def release(self, base: int, index: int | None) -> None:
        """scontrol release of a held task."""
        task = self.jobs[base].tasks[index]
        task.flag, task.reason = "", "None"

    def refresh_accounts(self, now: float) -> None:
        """The controller sends accounting the lists of tasks that still wait."""
        for job in self.jobs.values():
            waiting = [t.index for t in job.tasks.values() if t.number == 0]
            if waiting and not job.record:
                self._tell(job, "record", job.submitted, now, tasks=waiting)

    def cold_start(self, *, flush: bool) -> None:
        """The controller starts without its state: all jobs are forgotten.

        With ``flush`` accounting closes what was open, as CANCELLED. Ids begin anew; a test that
        does not want that sets ``next_id`` again.
        """
        self.jobs, self.next_id, self.late = {}, 1, []
        if flush:
            self.outbox = [(0.0, key, values) for _, key, values in self.outbox]
            self.settle(0.0)
            for row in self.accounts.values():
                if row.end == "Unknown":
                    row.word, row.end = "CANCELLED", row.start.replace("Unknown", "None")

    def _split(self, job: Job, task: Task) -> None:
        """A waiting task leaves the array's record; the last one takes that record over."""
        if task.number == 0:
            waiting = [t for t in job.tasks.values() if t.number == 0]
            task.number = job.base if len(waiting) == 1 else self.next_id
            self.next_id += task.number != job.base

    def _requeued(self, task: Task, now: float) -> None:
        if task.requeues:
            task.requeues = False
            task.word, task.flag, task.reason = "PENDING", "", "BeginTime"
            task.node, task.start, task.end = "", None, None
            task.submitted = now
            task.restarts += 1

    def _account_of(self, job: Job, task: Task, now: float, **values: object) -> None:
        """Tell accounting how a task ends; one that never started gets its row now."""
        said: dict[str, object] = {"word": task.word, "end": str(int(now)), **values}
        if task.start is None:
            said.setdefault("start", "None")
        self._tell(
            job, task.index, task.submitted, now,
            row=Account(job, task.index, task.submitted), **said,
        )  # fmt: skip

    def _tell(
        self, job: Job, index: object, submitted: float, now: float, **values: object
    ) -> None:
        if self.accounting:
            self.outbox.append((now + self.lag, (job.base, index, submitted), values))
