"""What a site may bind into containers, and what of it the nodes are told."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hpcrunner.sites.container import Container, split_bind
from hpcrunner.sites.node_setup import container_setup
from hpcrunner.sites.site import Site


@pytest.mark.parametrize(
    ("bind", "parts"),
    [
        ("/data", ("/data", "/data", "rw")),
        ("/data:/inside", ("/data", "/inside", "rw")),
        ("/data:/inside:ro", ("/data", "/inside", "ro")),
        ("$SCRATCH/shared", ("$SCRATCH/shared", "$SCRATCH/shared", "rw")),
        ("$SCRATCH:/scratch:rw", ("$SCRATCH", "/scratch", "rw")),
        ("/dev/infiniband", ("/dev/infiniband", "/dev/infiniband", "rw")),
    ],
)
def test_a_bind_is_a_source_and_where_it_is_inside(bind: str, parts: tuple[str, str, str]) -> None:
    assert split_bind(bind) == parts
    assert Container(binds=(bind,)).binds == (bind,)


@pytest.mark.parametrize(
    "bind",
    [
        *("", "data", "/a:data", "/a:/b:wx", "/a:/b:ro:x", "/a,/b", "/a:/b,/c:/d", "/a\n/b"),
        *("/", "//", "/:/host", "/a:/", "/./", "/proc", "/proc/1", "/sys:/b", "/dev", "/dev/"),
        *("/a/../etc", "/a:/../b", "/a\\b", "--writable", "/a:$B"),
    ],
)
def test_what_would_bind_more_than_it_says_is_refused(bind: str) -> None:
    with pytest.raises(ValidationError):
        Container(binds=(bind,))


def test_the_sites_own_variables_go_into_containers_but_not_the_hosts_paths() -> None:
    site = Site(
        environment={"https_proxy": "http://p", "LD_LIBRARY_PATH": "/opt/lib", "PATH": "/opt/bin"},
        container=Container(environment=("TZ", "HOME"), pythonenv="install", isolation=False),
    )
    setup = container_setup(site)
    assert setup.environment == ("TZ", "https_proxy")
    assert (setup.isolation, setup.pythonenv) == (False, "install")
