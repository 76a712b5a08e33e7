"""Accounts, limits and qualities of service in slurmdbd."""

from __future__ import annotations

from .layout import (
    ACCOUNT,
    CLUSTER_NAME,
    LIMITED_ACCOUNT,
    LIMITED_MAX_SUBMIT,
    QOS,
    USER,
    Layout,
)
from .process import run


def answers(layout: Layout) -> bool:
    """Whether slurmdbd answers a question."""
    return _sacctmgr(layout, "show", "cluster", check=False) is not None


def ensure(layout: Layout) -> None:
    """Bring the records to what the cluster promises; made before slurmctld reads them."""
    if CLUSTER_NAME not in _column(layout, "cluster", "cluster"):
        _sacctmgr(layout, "add", "cluster", CLUSTER_NAME)
    known = _column(layout, "qos", "name")
    for name, priority in zip(QOS, (100, 10, 1000), strict=True):
        if name not in known:
            _sacctmgr(layout, "add", "qos", name)
        _sacctmgr(layout, "modify", "qos", name, "set", f"priority={priority}")
    _sacctmgr(layout, "modify", "qos", "high", "set", "preempt=low")
    known = _column(layout, "account", "account")
    for name in (ACCOUNT, LIMITED_ACCOUNT):
        if name not in known:
            _sacctmgr(layout, "add", "account", name, "organization=hpcrunner")
    for name in (ACCOUNT, LIMITED_ACCOUNT):
        if USER not in _column(layout, "assoc", "user", f"account={name}"):
            _sacctmgr(layout, "add", "user", USER, f"account={name}", f"defaultaccount={ACCOUNT}")
    _sacctmgr(layout, "modify", "user", USER, "set", f"qos={','.join(QOS)}", "defaultqos=normal")
    where = ("where", f"account={LIMITED_ACCOUNT}")
    _sacctmgr(layout, "modify", "user", USER, *where, "set", f"maxsubmitjobs={LIMITED_MAX_SUBMIT}")


def _column(layout: Layout, entity: str, field: str, *where: str) -> set[str]:
    shown = _sacctmgr(layout, "show", entity, *where, f"format={field}")
    return set((shown or "").split())


def _sacctmgr(layout: Layout, *words: str, check: bool = True) -> str | None:
    environ = {"SLURM_CONF": str(layout.slurm_conf)}
    command = ["sacctmgr", "--immediate", "--noheader", "--parsable2", *words]
    done = run(command, environ=environ, timeout=60, check=False)
    if done.returncode != 0 and "Nothing modified" not in done.stdout + done.stderr:
        if check:
            # Once more, for its message.
            run(command, environ=environ, timeout=60)
        return None
    return done.stdout
