"""A site with Grid Engine: its keys, and what of Slurm's makes no sense there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcrunner.sites.load import load_site
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site

SITE = """\
scheduler: gridengine
spool: /home/me/hpcrunner
account: research
directives: ["-l os=el9", "-R y"]
gridengine:
  parallel_environment: shared
  memory_resources: [mem_free, h_vmem]
  gpu_type_resource: gpu_type
  gpus_per: slot
  priority: -100
partitions:
  - name: gpu.q
    gpus: [{type: a100, memory: 80G, count: 4}]
    directives: ["-ac allow=L"]
"""


def read(tmp_path: Path, text: str) -> Site:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return load_site(str(path))


def test_a_site_names_its_resources(tmp_path: Path) -> None:
    site = read(tmp_path, SITE)
    assert site.gridengine.parallel_environment == "shared"
    assert site.gridengine.memory_resources == ("mem_free", "h_vmem")
    assert site.gridengine.priority == -100
    assert site.directives == ("-l os=el9", "-R y")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("gpu_syntax: gpus\n", "gpu_syntax"),
        ("memory_syntax: mem-per-cpu\n", "use gridengine.memory_resources"),
        ("qos: high\n", "qos"),
        ("export: ALL\n", "no environment is ever exported"),
        ("accounting: {mode: slurmdbd}\n", "qacct or none"),
        ("tmp: true\n", "true without gridengine.tmp_resource"),
        ("rules: [{name: all, qos: low}]\n", r"rules\[0\].qos"),
        ("rules: [{name: all, directives: ['--exclusive']}]\n", "an option of sbatch"),
        ("rules: [{name: all, directives: ['-l h_vmem=1G']}]\n", "use defaults.memory"),
        ("rules: [{name: all, directives: ['-l x=1,gpu=2']}]\n", "use partitions.gpus"),
    ],
)
def test_what_is_slurms_is_refused_in_a_line(tmp_path: Path, more: str, line: str) -> None:
    with pytest.raises(SiteError, match=line):
        read(tmp_path, SITE + more)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("-q all.q", "partitions"),
        ("-pe smp 4", "parallel_environment"),
        ("-t 1-5", "arrays"),
        ("-V", "environment"),
        ("-l h_rt=60", "time_limit"),
        ("-l x=1,hostname=n1", "queue@host"),
        ("-sync y", "a site may give"),
        ("-l a=`id`", "cannot be carried"),
        ("-l a=1 -q x", "cannot be carried"),
        ("-R maybe", "cannot be carried"),
    ],
)
def test_an_option_that_a_site_must_not_give_says_why(tmp_path: Path, word: str, why: str) -> None:
    with pytest.raises(SiteError, match=why):
        read(tmp_path, SITE.replace("-R y", word))


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("constraint: big", "use the partition's directives"),
        ("shards: 4", "shards"),
    ],
)
def test_gpus_that_only_slurm_shares_or_tells_apart_are_refused(
    tmp_path: Path, key: str, line: str
) -> None:
    with pytest.raises(SiteError, match=line):
        read(tmp_path, SITE.replace("count: 4", f"count: 4, {key}"))


@pytest.mark.parametrize("scheduler", ["auto", "drmaa", "sbatch", "local"])
@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("gridengine: {queue_named: false}\n", "only with scheduler: gridengine"),
        ("accounting: {mode: qacct}\n", "only with scheduler: gridengine"),
        ("directives: ['-l os=el9']\n", "an option of Grid Engine's"),
    ],
)
def test_what_is_grid_engines_is_refused_elsewhere(
    tmp_path: Path, scheduler: str, more: str, line: str
) -> None:
    with pytest.raises(SiteError, match=line):
        read(tmp_path, f"scheduler: {scheduler}\nspool: /home/me/s\n{more}")
