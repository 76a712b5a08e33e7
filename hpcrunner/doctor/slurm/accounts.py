"""The accounts and QOS of the site's file against those that are the user's."""

from __future__ import annotations

from collections.abc import Iterator

from hpcrunner.doctor.finding import Finding, fault, not_tried, ok
from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.sites.parts import Partition
from hpcrunner.sites.site import Site


def judge_accounts(site: Site, facts: Facts) -> Iterator[Finding]:
    """Account and QOS of the site and of each of its partitions."""
    if not facts.has("associations"):
        trouble = facts.troubles["associations"]
        yield not_tried("account", trouble.what, trouble.where, trouble.remedy)
        return
    if not facts.associations:
        yield from _nobody(site, facts)
        return
    found = list(_site(site, facts))
    for number, partition in enumerate(site.partitions):
        found += _partition(site, partition, f"partitions[{number}] {partition.name}", facts)
    for number, rule in enumerate(site.rules):
        found += _named(rule.account, rule.qos, f"rules[{number}] {rule.name}.", site, facts)
    yield from found
    if not found:
        account = site.account or facts.default_account
        yield ok("account", f"{facts.user} is in {account}" if account else "none is needed")


def default_qos(facts: Facts, account: str) -> str:
    """The QOS of a job that names none, where the associations tell."""
    for row in facts.associations:
        if row.account == account and not row.partition:
            return row.default_qos or (row.qos[0] if len(row.qos) == 1 else "")
    return ""


def _nobody(site: Site, facts: Facts) -> Iterator[Finding]:
    """Without associations any account is good, unless they are enforced."""
    if "associations" in facts.settings.get("AccountingStorageEnforce", ""):
        yield fault(
            "account",
            f"{facts.user} is in no account of this cluster: no job is taken",
            "sacctmgr show assoc",
            "ask the administrators for one",
        )
    else:
        yield ok("account", "the cluster does not ask for one")


def _site(site: Site, facts: Facts) -> Iterator[Finding]:
    yield from _named(site.account, site.qos, "", site, facts)


def _named(
    account: str | None, qos: str | None, where: str, site: Site, facts: Facts
) -> Iterator[Finding]:
    """An account and a QOS that stand in the site's file at ``where``."""
    mine = sorted({row.account for row in facts.associations})
    if account and account.lower() not in mine:
        yield _not_mine(account, f"{where}account", facts, mine)
    elif qos:
        used = account or site.account or facts.default_account
        yield from _qos(qos, f"{where}qos", used.lower(), facts)


def _partition(site: Site, partition: Partition, where: str, facts: Facts) -> Iterator[Finding]:
    mine = sorted({row.account for row in facts.associations})
    account = (partition.account or site.account or facts.default_account).lower()
    if partition.account and account not in mine:
        yield _not_mine(partition.account, f"{where}.account", facts, mine)
        return
    if partition.qos:
        yield from _qos(partition.qos, f"{where}.qos", account, facts)
    there = next((p for p in facts.partitions if p.name == partition.name), None)
    if there is None:
        return
    if account and (
        (there.allow_accounts and account not in there.allow_accounts)
        or account in there.deny_accounts
    ):
        good = [name for name in mine if not there.allow_accounts or name in there.allow_accounts]
        yield fault(
            "account",
            f"takes no jobs of the account {account}",
            f"{where}.account",
            f"yours that it takes: {', '.join(good)}" if good else "it takes none of yours",
        )
    qos = partition.qos or site.qos or default_qos(facts, account)
    if qos and ((there.allow_qos and qos not in there.allow_qos) or qos in there.deny_qos):
        yield fault(
            "qos",
            f"takes no jobs of the QOS {qos}",
            f"{where}.qos",
            f"it takes {', '.join(there.allow_qos) or 'others'}",
        )
    if there.allow_groups and facts.groups and not set(there.allow_groups) & set(facts.groups):
        yield fault(
            "account",
            f"takes jobs of the groups {', '.join(there.allow_groups)} alone",
            where,
            "take it out, or ask to be let in",
        )


def _qos(qos: str, where: str, account: str, facts: Facts) -> Iterator[Finding]:
    rows = [row for row in facts.associations if not account or row.account == account]
    mine = sorted({name for row in rows for name in row.qos})
    if mine and qos not in mine:
        yield fault(
            "qos",
            f"{qos} is not yours" + (f" in the account {account}" if account else ""),
            where,
            f"yours: {', '.join(mine)}",
        )


def _not_mine(account: str, where: str, facts: Facts, mine: list[str]) -> Finding:
    return fault(
        "account",
        f"{facts.user} is not in the account {account}",
        where,
        f"yours: {', '.join(mine)}",
    )
