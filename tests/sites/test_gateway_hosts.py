"""Where the rule about hosts holds, and whose credentials are lent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpcrunner.gateway.admission import admit
from hpcrunner.gateway.images import open_images
from hpcrunner.request.hosts import ANYWHERE, HostRule
from hpcrunner.request.model import AwsCredentials, Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.resolve import resolve_record
from hpcrunner.sites.node_setup import record_rules, store_rules
from hpcrunner.sites.site import Site

NOBODY = AwsCredentials()
INSIDE = HostRule(("10.1.0.0/16",))


def message() -> bytes:
    """Everything in stores, and credentials for nothing."""

    def at(address: str, **more: Any) -> dict[str, Any]:
        return {"qualified": address, "mutable": False, "unpack": True, **more}

    database = {"type": "s3", "endpoint": "http://10.1.2.3:9000", "bucket": "meta"}
    return json.dumps(
        {
            "config": {"database": database},
            "experiment": {
                "key": "k",
                "filename": "run.py",
                "artifacts": {
                    "workspace": at("s3://10.1.2.3:9000/b/code.tar"),
                    "web": at("https://example.org/data.tar"),
                    "google": at("gs://b/data.tar"),
                    "_singularity": at("s3://10.1.2.3:9000/b/image.sif"),
                },
            },
        }
    ).encode()


def site(**keys: Any) -> Site:
    container = {"runtime": "apptainer", **keys.pop("container", {})}
    return Site(name="x", scheduler="local", container=container, **keys)


@pytest.mark.parametrize(
    ("keys", "artifacts", "image", "record"),
    [
        ({}, None, None, ANYWHERE),
        ({"gateway_hosts": ["10.1.0.0/16"]}, None, None, INSIDE),
        ({"container": {"pull": "gateway"}}, None, HostRule(), ANYWHERE),
        ({"staging": "gateway"}, HostRule(), HostRule(), HostRule()),
        ({"staging": "gateway", "gateway_hosts": ["10.1.0.0/16"]}, INSIDE, INSIDE, INSIDE),
    ],
)
def test_the_rule_holds_where_the_gateway_contacts_for_a_message(
    keys: dict[str, Any],
    artifacts: HostRule | None,
    image: HostRule | None,
    record: HostRule | None,
) -> None:
    made = site(**keys)
    planned = admit(message(), made, 0.0).planned(experiment="0" * 12, attempt=1)
    assert {a.location.hosts for a in planned.artifacts} == {artifacts}
    assert planned.image is not None and planned.image.location is not None
    assert planned.image.location.hosts == image
    request = parse_message(message())
    assert isinstance(request, Request)
    found = resolve_record(request, record_rules(made))
    assert found is not None and found.hosts == record
    own = resolve_record(request, store_rules(made))
    assert own is not None and own.hosts is None, "what people run by hand is theirs"


@pytest.mark.parametrize("lends", [False, True])
def test_the_gateways_own_credentials_are_lent_where_the_site_says_so(lends: bool) -> None:
    made = site(staging="gateway", gateway_credentials=lends)
    planned = admit(message(), made, 0.0).planned(experiment="0" * 12, attempt=1)
    credentials = {a.tag: a.location.credentials for a in planned.artifacts}
    wanted = None if lends else NOBODY
    assert credentials["workspace"] == credentials["google"] == wanted
    assert planned.image is not None and planned.image.location is not None
    assert planned.image.location.credentials == wanted
    online = admit(message(), site(), 0.0).planned(experiment="0" * 12, attempt=1)
    assert {a.location.credentials for a in online.artifacts} == {None}, "the node's own, as ever"


def test_registries_are_checked_by_name_unless_the_site_has_named_them() -> None:
    def hosts(**container: Any) -> Any:
        images = open_images(None, None, site(container={"pull": "gateway", **container}))  # type: ignore[arg-type]
        assert images is not None
        images.close()
        return images

    usual = hosts(image="docker://registry.lan/base:1", plain_http=["localhost:5000"])
    assert usual._hosts == HostRule()
    assert usual._known == {"registry.lan", "localhost:5000"}
    assert hosts(trusted=["docker://registry.lan/"])._hosts is None
