"""StudioML's options about stores: each replaces a key of the site's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcrunner.cli.storeoptions import with_stores
from hpcrunner.request.location import TlsFiles
from hpcrunner.sites.load import load_site
from hpcrunner.sites.node_setup import node_setup, store_rules
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site

NOTHING: dict[str, Any] = {
    **dict.fromkeys(("cache_dir", "cache_size", "s3_ca", "s3_cert", "s3_key"), ""),
    **dict.fromkeys(("allow_env_secrets", "generate_metadata", "schema_logs")),
}


def changed(site: Site | None = None, **given: Any) -> Site:
    return with_stores(site or load_site("local"), **{**NOTHING, **given})


def test_what_is_not_given_stays_as_the_site_has_it() -> None:
    site = load_site("local")
    assert changed(site) == site
    own = changed(site, s3_ca="/a/ca.pem")
    assert changed(own, s3_cert="/a/c.pem", s3_key="/a/k.pem").s3.ca == "/a/ca.pem"
    assert changed(own, cache_size="0").artifact_cache.path is None


def test_what_is_given_reaches_the_nodes_and_the_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = changed(
        cache_dir="$SCRATCH/x",
        cache_size="10gb",
        s3_ca="ca.pem",
        s3_cert="/c.pem",
        s3_key="/k.pem",
        allow_env_secrets=False,
        generate_metadata=False,
        schema_logs=False,
    )
    setup, rules = node_setup(site, 0), store_rules(site)
    assert (setup.artifact_cache, setup.artifact_cache_size) == ("$SCRATCH/x", 10 * 10**9)
    assert rules.tls == TlsFiles(str(tmp_path / "ca.pem"), "/c.pem", "/k.pem")
    assert not rules.allow_env_secrets
    assert (setup.generate_metadata, setup.schema_logs) == (False, False)


def test_a_site_without_files_of_its_own_trusts_the_systems_authorities() -> None:
    rules = store_rules(load_site("local"))
    assert rules.tls is None
    assert rules.allow_env_secrets


def test_half_a_client_certificate_is_a_mistake() -> None:
    with pytest.raises(SiteError, match="key missing"):
        changed(s3_cert="/c.pem")
    with pytest.raises(SiteError, match="cert missing"):
        changed(s3_key="/k.pem")
