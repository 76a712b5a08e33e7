"""A first site file from what the cluster says of itself, with what to check as comments. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hpcrunner.doctor.cards import is_amd, memory_known
from hpcrunner.doctor.slurm.accounts import default_qos
from hpcrunner.doctor.slurm.facts import Facts
from hpcrunner.doctor.slurm.kinds import Kind, kinds, why_not
from hpcrunner.doctor.slurm.partitions import clock
from hpcrunner.sites.values import is_slurm_name

_DEFAULT_MEMORY = 4096  # MiB
_DEFAULT_TIME = 4 * 3600
_MOST_JOBS = 500
_UNKNOWN = "CHECK: a card that hpcrunner does not know: give its memory (nvidia-smi on a node)."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NOT_TEXT = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n"])


def draft(facts: Facts, name: str, shown: str, runtimes: Mapping[str, str]) -> str:
    """The file's text. ``shown``: what ``--site`` takes for it. ``runtimes``: container runtimes
    found here, by name.
    """
    config = facts.config
    found = kinds(facts)
    lines = [
        f"# A first site file for the cluster {config.cluster}, from what it says of itself.",
        f"# Slurm {config.version}. Look at each CHECK, then:",
        f"#   hpcrunner site check {shown}",
        f"#   hpcrunner doctor --site {shown}",
        "# docs/site-config.md explains every key.",
        f"name: {_yaml(name)}",
        f"description: {_text(f'The cluster {config.cluster}')}",
        "scheduler: auto",
        "",
        "# CHECK: a folder on a file system that all nodes see.",
        "spool: ~/.hpcrunner",
        "# CHECK: best a local disk of the node; many sites say $TMPDIR or $SLURM_TMPDIR.",
        f"scratch: {_scratch(facts)}",
        "# CHECK: for environments and packages; a roomier file system than home, if there is one.",
        "cache: ~/.cache/hpcrunner",
        "",
        *_account(facts),
        *_partitions(facts, found),
        *_defaults(facts, found),
        *_memory_syntax(found),
        *_limits(facts),
        *_container(runtimes),
        *_dialect(facts),
    ]
    # Features, groups and the like are shown as they are told; YAML has no control characters.
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines) + "\n"


def file_name(facts: Facts) -> str:
    """A name for the site: the cluster's."""
    cluster = facts.config.cluster.lower()
    return cluster if _NAME.fullmatch(cluster) else "my-cluster"


def chosen_account(facts: Facts) -> str:
    """The user's default account, else the first; empty for none."""
    names = [facts.default_account, *sorted(row.account for row in facts.associations)]
    return next(filter(is_slurm_name, names), "")


def _scratch(facts: Facts) -> str:
    path = facts.settings.get("TmpFS", "/tmp")  # noqa: S108 - what Slurm says of its nodes
    return path if re.fullmatch(r"/[A-Za-z0-9_./-]*", path) else "/tmp"  # noqa: S108


def _account(facts: Facts) -> Iterator[str]:
    accounts = sorted({row.account for row in facts.associations})
    chosen = chosen_account(facts)
    if not chosen:
        yield "# CHECK: sacctmgr names no account of yours; many sites need none."
        yield "# account: research"
        yield ""
        return
    others = [name for name in accounts if name != chosen]
    if others:
        yield f"# CHECK: your default account; also yours: {', '.join(others)}."
    yield f"account: {_yaml(chosen)}"
    qos = sorted({name for row in facts.associations if row.account == chosen for name in row.qos})
    if len(qos) > 1:
        yield f"# CHECK: your QOS there: {', '.join(qos)}; without a word it is the default."
        yield f"# qos: {_yaml(default_qos(facts, chosen) or qos[0])}"
    yield ""


def _partitions(facts: Facts, found: list[Kind]) -> Iterator[str]:
    left_out = [(p.name, why) for p in facts.partitions if (why := why_not(p, facts))]
    for partition, why in left_out:
        yield f"# Left out: {partition} ({why})."
    if not found:
        yield "# CHECK: no partition of yours was found: jobs go to the default one, without GPUs."
        yield "partitions: []"
        yield ""
        return
    yield "# CHECK: the order. A request gets the first entry that holds it; one with GPUs the one"
    yield "# that wastes least. A partition with several kinds of nodes has an entry for each."
    yield "partitions:"
    for kind in found:
        yield from _entry(facts, kind)
    yield ""


def _entry(facts: Facts, kind: Kind) -> Iterator[str]:
    partition = kind.partition
    for other in kind.others:
        yield f"  # CHECK: {other}: an entry of their own with a --constraint, if you need them."
    if partition.whole_nodes:
        yield "  # CHECK: jobs get whole nodes here: set defaults.cpus to what is paid for anyway."
    if partition.hidden:
        yield "  # CHECK: hidden from others: is it yours to use?"
    yield f"  - name: {_yaml(partition.name)} # {kind.nodes} node(s)"
    if partition.max_time is not None:
        yield f"    max_time: {clock(partition.max_time)}"
    else:
        yield "    # max_time: no limit"
    yield f"    max_cpus: {max(kind.cpus, 1)}"
    if kind.memory:
        yield f"    max_memory: {max(kind.memory >> 20, 1)}M"
    else:
        yield "    # CHECK: Slurm was told no memory of these nodes: max_memory: 64G"
    yield from _own_account(facts, kind)
    if kind.gpu is None:
        return
    yield "    # CHECK: whether jobs without GPUs may use these nodes."
    yield "    gpus_only: true"
    yield "    gpus:"
    yield from _gpu(kind)


def _gpu(kind: Kind) -> Iterator[str]:
    if kind.gpu is None:
        return
    name, count = kind.gpu
    # A feature of the nodes may say what gres.conf does not.
    card = name or next((word for word in kind.features if memory_known(word)), "")
    sizes = memory_known(card)
    memory, remarks = (f"{sizes[0]}G" if sizes else "1G"), []
    if not name:
        remarks.append("CHECK: gres.conf names no type: which card is it?")
        if kind.features:
            remarks.append(f"The nodes' features: {', '.join(kind.features)}.")
    elif not sizes:
        remarks.append(_UNKNOWN)
    if len(sizes) > 1:
        more = " or ".join(f"{size}G" for size in sizes[1:])
        remarks.append(f"CHECK: there are such with {more}, too.")
    vendor = ", vendor: amd" if is_amd(card) else ""
    typed = f"type: {_yaml(name)}, " if name else ""
    entry = f"{{{typed}memory: {memory}, count: {max(count, 1)}{vendor}}}"
    yield f"      - {entry}" + (f" # {' '.join(remarks)}" if remarks else "")


def _own_account(facts: Facts, kind: Kind) -> Iterator[str]:
    """Account and QOS, where the usual ones are not let in."""
    partition = kind.partition
    mine = sorted({row.account for row in facts.associations})
    account = chosen_account(facts)
    let_in = [
        name
        for name in mine
        if is_slurm_name(name)
        and (not partition.allow_accounts or name in partition.allow_accounts)
        and name not in partition.deny_accounts
    ]
    if account and account not in let_in and let_in:
        account = let_in[0]
        yield f"    account: {_yaml(account)}"
    usual = default_qos(facts, account)
    refused = (partition.allow_qos and usual not in partition.allow_qos) or (
        usual in partition.deny_qos
    )
    if not usual or not refused:
        return
    rows = [row for row in facts.associations if row.account == account]
    good = [
        name
        for name in dict.fromkeys(name for row in rows for name in row.qos)
        if is_slurm_name(name)
        and (not partition.allow_qos or name in partition.allow_qos)
        and name not in partition.deny_qos
    ]
    if good:
        yield f"    qos: {_yaml(good[0])}"
    else:
        yield f"    # CHECK: it takes the QOS {', '.join(partition.allow_qos)}, none of them yours."


def _defaults(facts: Facts, found: list[Kind]) -> Iterator[str]:
    least = min((kind.memory >> 20 for kind in found if kind.memory), default=_DEFAULT_MEMORY)
    times = [kind.partition.max_time for kind in found]
    longest = _DEFAULT_TIME
    if times and all(time is not None for time in times):
        longest = min(longest, max(time for time in times if time is not None))
    yield "# CHECK: what a job gets where its request does not say."
    yield "defaults:"
    yield "  cpus: 1"
    yield f"  memory: {max(min(_DEFAULT_MEMORY, least), 1)}M{_memory_remark(facts)}"
    yield f"  time_limit: {clock(longest)}"
    yield ""


def _memory_syntax(found: list[Kind]) -> Iterator[str]:
    if found and not any(kind.memory for kind in found):
        yield "# CHECK: Slurm knows no memory of any node, and refuses jobs that ask for some."
        yield "memory_syntax: none"
        yield ""


def _memory_remark(facts: Facts) -> str:
    """The cluster's own default, where it has one."""
    for key in ("DefMemPerNode", "DefMemPerCPU", "DefMemPerGPU"):
        value = facts.settings.get(key, "")
        if value.isdecimal():
            return f" # the cluster's own: {key}={value}"
    return " # without it a job would have all of a node's"


def _limits(facts: Facts) -> Iterator[str]:
    config = facts.config
    submits = [
        row.max_submit
        for row in facts.associations
        if row.max_submit and row.account == chosen_account(facts)
    ]
    most = min([_MOST_JOBS, *submits])
    yield "limits:"
    yield "  submit_rate: 10/1s"
    yield f"  max_jobs: {most}" + (" # MaxSubmitJobs of your account" if submits else "")
    if config.max_array_size >= 2:
        yield f"  max_array_size: {config.max_array_size}"
    if config.max_array_size <= 2:
        yield "  max_array_tasks: 1 # the cluster takes no arrays"
    wait = facts.settings.get("KillWait", "").partition(" ")[0]
    if wait.isdecimal():
        yield f"kill_wait: {wait}"
    yield "accounting:"
    yield f"  mode: {'slurmdbd' if config.accounting else 'none'}"
    yield ""


def _container(runtimes: Mapping[str, str]) -> Iterator[str]:
    found = [name for name in ("apptainer", "singularity") if runtimes.get(name)]
    if found:
        yield f"# Found here: {runtimes[found[0]]}; the doctor looks whether nodes have it."
    else:
        yield "# CHECK: no apptainer or singularity here; it may be a module of the nodes."
    yield "container:"
    yield f"  runtime: {found[0] if found else 'none'}"
    yield ""


def _dialect(facts: Facts) -> Iterator[str]:
    match = re.match(r"(\d+)\.(\d+)", facts.config.version)
    newer = match is not None and (int(match[1]), int(match[2])) > (22, 5)
    yield "# CHECK: gres:, or gres/ where a job with GPUs through DRMAA is refused."
    yield "drmaa:"
    yield f'  gres_prefix: "{"gres/" if newer else "gres:"}"'


def _text(text: str) -> str:
    """Words for people as YAML."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9 ._-]*[A-Za-z0-9]", text) else _yaml(text)


def _yaml(text: str) -> str:
    """A name as YAML, which would take some for numbers or switches."""
    plain = _WORD.fullmatch(text) and text.lower() not in _NOT_TEXT
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
