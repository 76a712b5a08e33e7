"""What each shipped site asks its scheduler for, byte for byte, by script and through DRMAA.

A site file without golden texts fails. After a wanted change, and for a new site:
``HPCRUNNER_UPDATE_GOLDEN=1 pytest tests/batch/test_shipped_sites.py``, then read the difference.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.dialect import dialect_of
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.batch.script import check_templates, render_script
from hpcrunner.data import data_folder
from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.model import Resources
from hpcrunner.sites.layers import read_layers
from hpcrunner.sites.load import validated
from hpcrunner.sites.needs import check_needs
from hpcrunner.sites.placement import place
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site

SITES = data_folder("site-configs")
NAMES = sorted(path.stem for path in SITES.glob("*.yaml"))
GOLDEN = Path(__file__).parent / "golden" / "sites"
UPDATE = "HPCRUNNER_UPDATE_GOLDEN"
GIB = 1024**3
FOLDER = Path("/home/someone/.hpcrunner/batches/0123456789ab")


@pytest.fixture(autouse=True)
def someone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same person on every machine."""
    monkeypatch.setenv("USER", "someone")
    monkeypatch.setenv("HOME", "/home/someone")


def as_somebody_has_it(name: str) -> Site:
    """A shipped site with what it needs of its user, less what is this machine's."""
    merged = read_layers(SITES / f"{name}.yaml")
    site = validated(merged)
    needed = dict.fromkeys(site.needs, "project_123")
    local: dict[str, Any] = {"cpus": 8, "memory": 16 * GIB}
    changes = {"python": "/opt/hpcrunner/bin/python", "local": local, **needed}
    return Site.model_validate({**dict(site), **changes})


def requests(site: Site) -> dict[str, Resources]:
    """CPUs only; and where there are GPUs, one of any kind, and a node's largest."""
    gpus = [gpu for partition in site.partitions for gpu in partition.gpus]
    found = {}
    if not site.partitions or any(not partition.gpus_only for partition in site.partitions):
        found["cpu"] = Resources(cpus=2, ram=2 * GIB)
    if gpus:
        largest = max(gpus, key=lambda gpu: (gpu.memory, gpu.count))
        found["one-gpu"] = Resources(cpus=4, gpus=1, ram=4 * GIB)
        found["largest-gpus"] = Resources(
            cpus=4, gpus=largest.count, gpu_memory=largest.memory, ram=4 * GIB
        )
    return found


def texts(site: Site, resources: Resources) -> dict[str, str]:
    spec = place(resources, site, max_duration=3600.0)
    batch = Batch("0123456789ab", spec, 1, FOLDER)
    made = {"sh": render_script(batch, site)}
    if site.scheduler != "local":
        try:
            job = dialect_of(site).drmaa_job(batch, site)
            made["native"] = f"{job.command}\n{job.native}\n"
        except NativeRefused as error:
            made["native"] = f"not through DRMAA: {error.what}\n"
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_site_asks_for_the_golden_words(name: str) -> None:
    site = as_somebody_has_it(name)
    check_templates(site)
    wanted = {
        f"{case}.{suffix}": text
        for case, resources in requests(site).items()
        for suffix, text in texts(site, resources).items()
    }
    folder = GOLDEN / name
    if os.environ.get(UPDATE):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for file, text in wanted.items():
            (folder / file).write_text(text)
    assert folder.is_dir(), f"no golden texts of this site: set {UPDATE}=1 and read them"
    assert {path.name: path.read_text() for path in folder.iterdir()} == wanted, (
        f"set {UPDATE}=1 if the change is wanted"
    )


def test_there_are_golden_texts_of_shipped_sites_only() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/*.sh")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_every_golden_script_is_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_every_partition_of_a_shipped_site_can_be_reached(name: str) -> None:
    """A partition that an earlier one always hides is a mistake of the order."""
    site = as_somebody_has_it(name)
    for index, partition in enumerate(site.partitions):
        alone = site.model_copy(update={"partitions": (partition,)})
        asked = Resources(
            cpus=partition.max_cpus or 1,
            ram=partition.max_memory or 0,
            gpus=max((gpu.count for gpu in partition.gpus), default=0),
            gpu_memory=max((gpu.memory for gpu in partition.gpus), default=0),
        )
        limit = float(partition.max_time) if partition.max_time else None
        assert place(asked, alone, max_duration=limit).partition == partition.name, index


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_says_where_its_values_are_from(name: str) -> None:
    """The files of real clusters cite their documentation and its date."""
    if name in ("local", "development-cluster") or name.startswith("generic-"):
        return
    base = read_layers(SITES / f"{name}.yaml").files[-1].read_text()
    assert "https://" in base
    assert " as of 20" in base


@pytest.mark.parametrize("name", NAMES)
def test_a_site_that_needs_its_users_account_says_so_before_it_is_used(name: str) -> None:
    shipped = validated(read_layers(SITES / f"{name}.yaml"))
    if not shipped.needs:
        check_needs(shipped)
        return
    with pytest.raises(SiteError, match=rf"site {name}: account is not set.* 'extends: {name}'"):
        check_needs(shipped)
    check_needs(as_somebody_has_it(name))


def test_the_page_about_sites_has_a_row_for_each_that_is_shipped() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sites.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([a-z0-9-]+)`", "".join(rows))) == NAMES


def test_a_request_that_no_shipped_site_can_hold_is_told_why() -> None:
    with pytest.raises(HpcrunnerError, match="small-g"):
        place(Resources(gpus=9), as_somebody_has_it("lumi"))
