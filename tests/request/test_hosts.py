"""Which hosts a message may have the gateway contact."""

from __future__ import annotations

import pytest

from hpcrunner.request.hosts import ANYWHERE, HostRule, parse_host

USUAL = HostRule()
METADATA_SERVICES = [
    "169.254.169.254",
    "169.254.170.2",
    "fd00:ec2::254",
    "fe80::1%eth0",
    "100.100.100.200",
    "168.63.129.16",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::ffff:0:169.254.169.254",
    "::169.254.169.254",
    "0.0.0.0",
    "::",
    "224.0.0.1",
]
INSIDE = ["127.0.0.1", "127.8.9.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "fc00::1"]
INSIDE += ["100.64.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "198.18.0.1"]
INSIDE += ["::127.0.0.1", "::ffff:0:10.1.2.3", "fec0::1", "64:ff9b:1::1"]


@pytest.mark.parametrize("address", METADATA_SERVICES)
def test_where_clouds_keep_credentials_is_refused_whatever_a_site_says(address: str) -> None:
    wide = HostRule(("public", "0.0.0.0/0", "::/0", "evil.example"))
    assert not USUAL.allows("evil.example", address)
    assert not wide.allows("evil.example", address)


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_not_of_the_internet_has_to_be_named(address: str) -> None:
    assert not USUAL.allows("evil.example", address)
    assert HostRule(("store.example",)).allows("store.example", address)
    assert HostRule((".example",)).allows("a.b.EXAMPLE.", address)
    assert not HostRule((".example", "public")).allows("example.evil.org", address)


def test_the_internet_is_allowed_until_a_site_names_what_is() -> None:
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        assert USUAL.allows("store.example", address)
        assert not HostRule(("10.1.0.0/16",)).allows("store.example", address)
        assert not HostRule(()).allows("store.example", address)
    rule = HostRule(("public", "10.1.0.0/16", "fc00::/7"))
    assert rule.allows("a", "10.1.255.1") and rule.allows("a", "fc00::1")
    assert not rule.allows("a", "10.2.0.1")
    assert not USUAL.allows("public", "10.1.0.1"), "a word, and no name of a host"


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("Public", "public"),
        (" S3.Example.ORG ", "s3.example.org"),
        (".example.org", ".example.org"),
        ("minio", "minio"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("::1", "::1/128"),
        ("127.0.0.0/8", "127.0.0.0/8"),
    ],
)
def test_a_site_names_hosts_addresses_and_networks(text: str, entry: str) -> None:
    assert parse_host(text) == entry


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://a", "a/b", "a b", "10.1.2.3/16", "10.1.2.300", "169.254.169.254"),
        *("fe80::/64", "*.example.org", "a:9000", "-a", "1.2.3", "::1::"),
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_host(text)


def test_anywhere_is_all_but_what_is_refused_always() -> None:
    for address in ("127.0.0.1", "10.1.2.3", "8.8.8.8", "::1", "fd00::1", "2001:4860::8888"):
        assert ANYWHERE.allows("store.example", address)
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"):
        assert not ANYWHERE.allows("store.example", address)
