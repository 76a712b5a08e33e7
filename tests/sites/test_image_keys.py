"""What a site file says about images: taken as it is meant, or named in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcrunner.request.image import ImageRefused
from hpcrunner.request.trust import named_image
from hpcrunner.sites.load import read_site
from hpcrunner.sites.node_setup import image_rules, node_setup
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site

SHA = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
Read = Callable[[str], Site]


@pytest.fixture
def container(tmp_path: Path) -> Read:
    """A site whose mapping ``container`` has these lines."""

    def read(lines: str) -> Site:
        path = tmp_path / "here.yaml"
        path.write_text("name: here\nscheduler: local\ncontainer:\n  runtime: apptainer\n" + lines)
        return read_site(path)

    return read


def test_without_a_word_of_the_site_any_image_runs_and_nothing_is_its_own(container: Read) -> None:
    rules = image_rules(container(""))
    assert named_image("docker://anybody.example/x", rules).reference
    assert rules.default == ""


def test_what_the_site_says_reaches_the_node(container: Read) -> None:
    site = container(
        "  program: /opt/apptainer\n  verify: /apps/keys.asc\n  cache: $SCRATCH/x\n"
        "  cache_size: 3G\n  refresh: UNLIMITED\n  plain_http: [Registry:5000]\n"
    )
    images = node_setup(site, 0).images
    assert (images.runtime, images.keys, images.cache) == (
        "/opt/apptainer",
        "/apps/keys.asc",
        "$SCRATCH/x",
    )
    assert (images.size, images.refresh, images.plain_http) == (3 << 30, None, ("registry:5000",))
    assert image_rules(site).signed


def test_an_empty_list_of_trusted_ones_leaves_the_sites_own_image(container: Read) -> None:
    rules = image_rules(container("  image: /apps/base.sif\n  trusted: []\n"))
    assert rules.default == "/apps/base.sif"
    with pytest.raises(ImageRefused, match="does not trust"):
        named_image("docker://ubuntu", rules)


def test_pins_are_found_however_they_are_spelt(container: Read) -> None:
    rules = image_rules(container(f"  pinned: {{'dockerhub://ubuntu': 'SHA256:{SHA}'}}\n"))
    assert named_image("docker://library/ubuntu:latest", rules).reference.endswith(SHA)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("  trusted: [tensorflow]\n", "container.trusted[0] (line 5)"),
        ("  trusted: ['docker://a/../b/']\n", "container.trusted[0] (line 5)"),
        ("  trust: []\n", "container.trust (line 5): unknown key, nearest: trusted"),
        ("  image: ubuntu\n", "container.image (line 5)"),
        ("  image: s3://bucket/a.sif\n", "would need a request's own keys"),
        ("  image: docker://ubuntu\n  verify: /k\n", "carries no signature"),
        ("  pinned: {'docker://ubuntu': latest}\n", "container.pinned"),
        (f"  pinned: {{ubuntu: {SHA}}}\n", "container.pinned"),
        ("  pull: laptop\n", "allowed: node, gateway"),
        ("  cache: relative\n", "container.cache (line 5)"),
        ("  plain_http: ['http://r:5000']\n", "container.plain_http[0] (line 5)"),
        ("  refresh: often\n", "container.refresh (line 5): got 'often'; allowed: an age"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(container: Read, lines: str, said: str) -> None:
    with pytest.raises(SiteError) as error:
        container(lines)
    (line,) = error.value.problems
    assert said in line


def test_an_image_of_the_site_needs_a_runtime(tmp_path: Path) -> None:
    path = tmp_path / "here.yaml"
    path.write_text("name: here\ncontainer: {image: /apps/a.sif}\n")
    with pytest.raises(SiteError, match=r"needs container\.runtime"):
        read_site(path)
