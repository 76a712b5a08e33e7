"""The cluster as a whole: commands, versions, limits, accounting; and what of it the site says."""

from __future__ import annotations

from collections.abc import Iterator

from hpcrunner.doctor.finding import Finding, fault, not_tried, ok, warning
from hpcrunner.doctor.folders import judge_skew
from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.request.units import format_duration
from hpcrunner.sites.site import Site

# Beginnings of variables that Slurm's commands heed, and exceptions that hpcrunner keeps.
TRAPS = {
    "SBATCH_": "",
    "SLURM_": "SLURM_CONF",
    "SQUEUE_": "",
    "SACCT_": "",
    "SALLOC_": "",
    "SCANCEL_": "",
    "SINFO_": "",
    "SCONTROL_": "",
    "SRUN_": "",
}
_NEEDED = ("sbatch", "squeue", "scancel", "scontrol")
_SUPPORTED = (20, 11)


def judge_commands(site: Site, facts: Facts) -> Iterator[Finding]:
    """Slurm's commands on the PATH, of a version that fits the controller's."""
    needed = [*_NEEDED, *(["sacct"] if site.accounting.mode == "slurmdbd" else [])]
    missing = [name for name in needed if not facts.commands.get(name)]
    if missing:
        yield fault(
            "commands",
            f"no {', '.join(missing)}",
            "PATH",
            "load the site's module for Slurm, here and where the gateway is started",
        )
    else:
        yield ok("commands", f"Slurm {facts.client or 'of some version'} here")
    if not facts.has("settings"):
        trouble = facts.troubles["settings"]
        yield fault("controller", trouble.what, trouble.where, trouble.remedy)
        return
    theirs = facts.config.version
    yield from _compared(facts.client, theirs, facts.config.cluster)


def judge_clock(facts: Facts) -> Finding:
    """This host's clock and the controller's."""
    if facts.skew is None:
        return not_tried("clock", "the controller does not tell its time", "controller")
    return judge_skew(facts.skew, "this host's clock by the controller's")


def judge_limits(site: Site, facts: Facts) -> Iterator[Finding]:
    """MaxArraySize, KillWait and MinJobAge against the site's keys."""
    if not facts.has("settings"):
        return
    config = facts.config
    largest = config.max_array_size - 1
    if site.limits.max_array_tasks > 1 and site.limits.largest_array > max(largest, 1):
        yield fault(
            "arrays",
            f"arrays of {site.limits.largest_array} tasks, and MaxArraySize is "
            f"{config.max_array_size}: larger ones are refused",
            "limits.max_array_size",
            f"max_array_size: {max(config.max_array_size, 2)}"
            + (" and max_array_tasks: 1" if largest < 1 else ""),
        )
    else:
        yield ok(
            "arrays",
            f"up to {site.limits.largest_array} tasks; MaxArraySize is {config.max_array_size}",
        )
    real = _seconds(facts.settings.get("KillWait", ""))
    if real is not None and site.kill_wait > real:
        yield fault(
            "kill_wait",
            f"{site.kill_wait:g} s, and KillWait is {real:g} s: jobs would be killed while they "
            "save",
            "kill_wait",
            f"kill_wait: {real:g}",
        )
    elif real is not None:
        yield ok("kill_wait", f"{site.kill_wait:g} s; KillWait is {real:g} s")
    enforced = facts.settings.get("EnforcePartLimits", "")
    if enforced == "NO":
        wait = format_duration(site.stuck_after)
        yield ok(
            "part_limits",
            "not enforced (EnforcePartLimits): a job that breaks one waits, and is set aside "
            f"after {wait} (stuck_after)",
        )
    elif enforced:
        yield ok("part_limits", f"enforced when a job is submitted ({enforced})")
    if site.accounting.mode == "none" and config.min_job_age < 2 * site.polling.ceiling:
        yield warning(
            "polling",
            f"{site.polling.ceiling:g} s between two looks, and squeue forgets ended jobs after "
            f"{config.min_job_age} s",
            "polling.ceiling",
            f"ceiling: {max(config.min_job_age / 3, 1):.0f}, or accounting.mode: slurmdbd",
        )


def judge_accounting(site: Site, facts: Facts) -> Finding:
    """Whether endings can be looked up as the site says."""
    where = "accounting.mode"
    if not facts.has("settings"):
        return not_tried("accounting", facts.troubles["settings"].what)
    kept = facts.config.accounting
    if site.accounting.mode == "none":
        if kept and facts.has("accounting"):
            return warning(
                "accounting",
                "none, and the cluster keeps accounts that sacct reads",
                where,
                "mode: slurmdbd, so that endings are looked up there",
            )
        return ok("accounting", "none: endings come from squeue and the jobs' own records")
    if not kept:
        return fault(
            "accounting",
            "slurmdbd, and the cluster keeps no accounts: endings would wait for them in vain",
            where,
            "mode: none",
        )
    if not facts.has("accounting"):
        trouble = facts.troubles["accounting"]
        return fault(
            "accounting",
            f"does not answer: {trouble.what}",
            trouble.where,
            "is slurmdbd up (sacctmgr ping)? Ask the administrators",
        )
    return ok("accounting", "sacct answers")


def _compared(client: str, theirs: str, cluster: str) -> Iterator[Finding]:
    ours, real = _major(client), _major(theirs)
    where = f"cluster {cluster}" if cluster else "controller"
    if real and real < _SUPPORTED:
        yield warning(
            "controller", f"Slurm {theirs} is older than 20.11, the oldest that was tried", where
        )
    elif ours and real and ours != real:
        yield warning(
            "controller",
            f"Slurm {theirs}, and the commands here are {client}",
            where,
            "load the module of the controller's version",
        )
    else:
        yield ok("controller", f"Slurm {theirs} answers", where)


def _major(version: str) -> tuple[int, int] | None:
    numbers = version.split(".")
    if len(numbers) < 2 or not (numbers[0].isdecimal() and numbers[1].isdecimal()):
        return None
    return int(numbers[0]), int(numbers[1])


def _seconds(text: str) -> float | None:
    number = text.partition(" ")[0]
    return float(number) if number.isdecimal() else None
