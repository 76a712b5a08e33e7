from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from hpcrunner.request.errors import RequestError
from hpcrunner.request.location import Location, TlsFiles
from hpcrunner.request.model import AwsCredentials, Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan import location_from
from hpcrunner.request.resolve import StoreRules, resolve_artifact, resolve_record

Messages = Callable[..., bytes]

STORAGE = AwsCredentials("AK", "SK")
OWN = AwsCredentials("OWN", "OWNSECRET")
OWN_SENT = {"aws": {"access_key": "OWN", "secret_access_key": "OWNSECRET"}}
ENV_SENT = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "ENVSECRET"}
LOCAL = {"type": "local", "endpoint": "/shared/studio"}


def read(body: bytes) -> Request:
    request = parse_message(body)
    assert isinstance(request, Request)
    return request


def located(
    message: Messages,
    artifact: dict[str, Any],
    *,
    env_secrets: bool = True,
    tls: TlsFiles | None = None,
    **changes: Any,
) -> Location | None:
    """The address of an artifact ``a`` of that form."""
    artifacts = {"workspace": {"key": "w"}, "a": artifact}
    request = read(message(experiment__artifacts=artifacts, **changes))
    found = request.artifact("a")
    assert found is not None
    return resolve_artifact(request, found, StoreRules(env_secrets, "/home/me", tls))


def s3(endpoint: str, bucket: str, key: str, **more: Any) -> Location:
    return Location("s3", key, bucket=bucket, endpoint=endpoint, **more)


# Which server, bucket and key.


@pytest.mark.parametrize(
    ("artifact", "expected"),
    [
        (
            {"qualified": "s3://10.0.0.7:9000/b/dir/x.tar"},
            s3("http://10.0.0.7:9000", "b", "dir/x.tar"),
        ),
        # Doubled slashes, as in the Go runner's own fixtures.
        (
            {"qualified": "s3://10.0.0.7:9000//b/x.tar"},
            s3("http://10.0.0.7:9000", "b", "x.tar"),
        ),
        # Explicit members win over the path.
        (
            {"qualified": "s3://10.0.0.7:9000/b/x.tar", "bucket": "B", "key": "K"},
            s3("http://10.0.0.7:9000", "B", "K"),
        ),
        # A server that config.storage does not know.
        ({"qualified": "s3://minio.lab:9000/b/k"}, s3("http://minio.lab:9000", "b", "k")),
        ({"qualified": "s3://localhost/b/k"}, s3("http://localhost", "b", "k")),
        ({"qualified": "s3://[::1]:9000/b/k"}, s3("http://[::1]:9000", "b", "k")),
        ({"qualified": "s3://u@minio.lab:9000/b/k"}, s3("http://minio.lab:9000", "b", "k")),
        (
            {"qualified": "s3://AK:S%2FK@minio.lab:9000/b/k"},
            s3("http://minio.lab:9000", "b", "k", credentials=AwsCredentials("AK", "S/K")),
        ),
        # AWS by its own hosts.
        ({"qualified": "s3://s3.amazonaws.com/b/k"}, s3("", "b", "k")),
        (
            {"qualified": "s3://s3-us-west-2.amazonaws.com/b/k"},
            s3("", "b", "k", region="us-west-2"),
        ),
        (
            {"qualified": "s3://S3.eu-central-1.amazonaws.com:443/b/k"},
            s3("", "b", "k", region="eu-central-1"),
        ),
        (
            {"qualified": "s3://s3.dualstack.us-east-1.amazonaws.com/b/k"},
            s3("", "b", "k", region="us-east-1"),
        ),
        (
            {"qualified": "s3://s3.cn-north-1.amazonaws.com.cn/b/k"},
            s3("", "b", "k", region="cn-north-1"),
        ),
        ({"qualified": "s3://s3-external-1.amazonaws.com/b/k"}, s3("", "b", "k")),
        (
            {"qualified": "s3://s3-fips.us-east-1.amazonaws.com/b/k"},
            s3("https://s3-fips.us-east-1.amazonaws.com", "b", "k"),
        ),
        ({"qualified": "s3://evil-amazonaws.com/b/k"}, s3("http://evil-amazonaws.com", "b", "k")),
        # A single word is a bucket, at the storage's server.
        ({"qualified": "s3://mybucket/dir/k"}, s3("http://10.0.0.7:9000", "mybucket", "dir/k")),
        # A key alone is in the client's own storage.
        ({"key": "blobstore/x.tar"}, s3("http://10.0.0.7:9000", "store", "blobstore/x.tar")),
        # Keys are raw: nothing in them is an escape or a query.
        (
            {"qualified": "s3://10.0.0.7:9000/b/a%20b?c#d"},
            s3("http://10.0.0.7:9000", "b", "a%20b?c#d"),
        ),
    ],
)
def test_an_s3_address(message: Messages, artifact: dict[str, Any], expected: Location) -> None:
    found = located(message, artifact, config__storage__credentials=None)
    assert found == expected


@pytest.mark.parametrize(
    ("endpoint", "host", "expected"),
    [
        ("https://minio.lab:9000", "minio.lab:9000", "https://minio.lab:9000"),
        ("https://minio.lab", "minio.lab", "https://minio.lab"),
        ("https://MINIO.lab:443/", "minio.lab", "https://MINIO.lab:443"),
        ("https://gw.lab/s3/", "gw.lab", "https://gw.lab/s3"),
        ("10.1.1.1:9000", "10.1.1.1:9000", "http://10.1.1.1:9000"),
        ("https://other.lab", "minio.lab", "http://minio.lab"),
        ("http://s3-us-west-2.amazonaws.com", "s3-us-west-2.amazonaws.com", ""),
        ("", "s3.amazonaws.com", ""),
    ],
)
def test_the_storages_endpoint_says_whether_its_host_is_https(
    message: Messages, endpoint: str, host: str, expected: str
) -> None:
    found = located(message, {"qualified": f"s3://{host}/b/k"}, config__storage__endpoint=endpoint)
    assert found is not None
    assert found.endpoint == expected


def test_google_addresses(message: Messages) -> None:
    assert located(message, {"qualified": "gs://b/dir/k"}) == Location("gs", "dir/k", bucket="b")
    google = {"type": "gcloud", "bucket": "b"}
    assert located(message, {"key": "k"}, config__storage=google) == Location("gs", "k", bucket="b")


def test_http_addresses_are_kept_whole(message: Messages) -> None:
    url = "https://host.example/dir/data.bin?sig=1"
    found = located(message, {"url": url, "unpack": False})
    assert found == Location("http", "dir/data.bin", endpoint=url)
    assert located(message, {"qualified": url}) == found
    assert "sig" not in f"{found} {found!r}"


@pytest.mark.parametrize("path", ["", "/", "/dir/", "/dir/.."])
def test_an_http_address_without_a_file_name_is_named_by_its_tag(
    message: Messages, path: str
) -> None:
    found = located(message, {"url": f"http://h{path}"})
    assert found is not None
    assert found.key == "a"


def test_nothing_to_fetch_from_is_none(message: Messages) -> None:
    assert located(message, {"mutable": True}) is None


@pytest.mark.parametrize("image", ["shub://a/b", "dockerhub://tensorflow/x", "docker://x"])
def test_a_container_image_of_a_registry_is_none(message: Messages, image: str) -> None:
    request = read(message(experiment__artifacts={"_singularity": {"qualified": image}}))
    assert resolve_artifact(request, request.artifacts[0]) is None


# Local files.


@pytest.mark.parametrize(
    ("storage", "artifact", "path"),
    [
        # What the client writes, with its first folder in the host's place.
        (
            LOCAL,
            {"qualified": "file://shared/studio/storage/blobstore/x", "key": "blobstore/x"},
            "/shared/studio/storage/blobstore/x",
        ),
        (LOCAL, {"key": "x"}, "/shared/studio/storage/x"),
        ({**LOCAL, "bucket": "b"}, {"key": "x"}, "/shared/studio/b/x"),
        ({**LOCAL, "endpoint": "~/st"}, {"key": "x"}, "/home/me/st/storage/x"),
        ({"type": "local"}, {"key": "x"}, "/home/me/storage/x"),
        ({**LOCAL, "endpoint": "/s//t/"}, {"key": "a//x"}, "/s/t/storage/a/x"),
        # The Go runner reads the path in key.
        (None, {"qualified": "file:///other", "key": "/data/x.tar"}, "/data/x.tar"),
        (LOCAL, {"qualified": "file:///other", "key": "/data/x.tar"}, "/data/x.tar"),
        # A whole URI by itself.
        (None, {"qualified": "file:///data/x.tar"}, "/data/x.tar"),
        (None, {"qualified": "file:////data/x.tar"}, "/data/x.tar"),
        (None, {"qualified": "file:/data/x.tar"}, "/data/x.tar"),
        (None, {"qualified": "file://localhost/data/x.tar"}, "/data/x.tar"),
        (None, {"qualified": "file://data/x.tar"}, "/data/x.tar"),
        (None, {"qualified": "FILE:///data/x y%20z"}, "/data/x y%20z"),
    ],
)
def test_a_local_address(
    message: Messages, storage: Any, artifact: dict[str, Any], path: str
) -> None:
    assert located(message, artifact, config__storage=storage) == Location("file", path)


# Whose keys.


def test_an_artifacts_own_credentials_come_first(message: Messages) -> None:
    artifact = {"qualified": "s3://10.0.0.7:9000/b/k", "credentials": OWN_SENT}
    found = located(message, artifact, config__env=ENV_SENT)
    assert found is not None
    assert found.credentials == OWN


def test_then_those_of_the_storage(message: Messages) -> None:
    found = located(message, {"qualified": "s3://10.0.0.7:9000/b/k"}, config__env=ENV_SENT)
    assert found is not None
    assert found.credentials == STORAGE


def test_then_those_of_the_environment_where_that_is_allowed(message: Messages) -> None:
    artifact = {"qualified": "s3://h:1/b/k"}
    bare: dict[str, Any] = {"config__storage": None, "config__env": ENV_SENT}
    allowed = located(message, artifact, **bare)
    refused = located(message, artifact, env_secrets=False, **bare)
    assert allowed is not None and refused is not None
    assert allowed.credentials == AwsCredentials("ENV", "ENVSECRET")
    assert refused.credentials is None
    bare["config__env"] = {"MINIO_ACCESS_KEY": "M", "MINIO_SECRET_KEY": "MS", "AWS_X": "1"}
    minio = located(message, artifact, **bare)
    assert minio is not None
    assert minio.credentials == AwsCredentials("M", "MS")


def test_a_password_in_an_address_is_a_key_like_those_beside_it(message: Messages) -> None:
    address = "s3://UK:US%2FK%2B@10.0.0.7:9000/b/k"
    found = located(message, {"qualified": address}, config__env=ENV_SENT)
    assert found is not None
    assert found.credentials == AwsCredentials("UK", "US/K+")
    assert "US" not in repr(found)
    both = located(message, {"qualified": address, "credentials": OWN_SENT})
    assert both is not None
    assert both.credentials == OWN


WEB = "https://host.example/d/x.bin?sig=1"


@pytest.mark.parametrize(
    ("artifact", "endpoint", "token"),
    [
        (
            {"url": WEB, "credentials": {"plain": {"user": "u@x", "password": "p/w:d"}}},
            "https://u%40x:p%2Fw%3Ad@host.example/d/x.bin?sig=1",
            "",
        ),
        ({"url": WEB, "credentials": {"jwt": {"token": "T0K"}, "plain": None}}, WEB, "T0K"),
        (
            {"qualified": "https://u:p%40@host.example/x"},
            "https://u:p%40@host.example/x",
            "",
        ),
        # What stands in the address itself is nearest to it.
        (
            {
                "url": "https://u:p@host.example/x",
                "credentials": {"plain": {"user": "v", "password": "q"}},
            },
            "https://u:p@host.example/x",
            "",
        ),
        ({"url": WEB, "credentials": OWN_SENT}, WEB, ""),
    ],
)
def test_who_asks_at_a_web_address(
    message: Messages, artifact: dict[str, Any], endpoint: str, token: str
) -> None:
    found = located(message, artifact)
    assert found is not None
    assert (found.endpoint, found.token) == (endpoint, token)
    assert "host.example" in repr(found)
    for secret in ("p%40", "p/w", "T0K", "p%2F"):
        assert secret not in repr(found)


def test_keys_for_google_mean_its_s3_protocol_and_two_empty_ones_nobody(
    message: Messages,
) -> None:
    at = {"qualified": "gs://b/k"}
    assert located(message, {**at, "credentials": OWN_SENT}) == s3(
        "https://storage.googleapis.com", "b", "k", credentials=OWN
    )
    empty = {"aws": {"access_key": "", "secret_access_key": ""}}
    assert located(message, {**at, "credentials": empty}) == Location(
        "gs", "k", bucket="b", credentials=AwsCredentials()
    )
    google = {"type": "gs", "bucket": "b", "credentials": OWN_SENT}
    found = located(message, {"key": "k"}, config__storage=google)
    assert found == s3("https://storage.googleapis.com", "b", "k", credentials=OWN)
    # The keys of an S3 storage are not Google's.
    assert located(message, at) == Location("gs", "k", bucket="b")


def test_credentials_by_reference_are_refused_with_what_to_send(message: Messages) -> None:
    vault = {"vault": {"server": "https://v", "auth": {"token": "hush"}, "path": "p"}}
    artifact = {"qualified": "s3://h:1/b/k", "credentials": {"aws": {"reference": vault}}}
    with pytest.raises(RequestError, match="send the keys") as caught:
        located(message, artifact)
    assert caught.value.where == "experiment.artifacts.a.credentials.aws.reference"
    assert "hush" not in str(caught.value)


OWN_CA = TlsFiles("/certs/ca.pem")


@pytest.mark.parametrize(
    ("artifact", "endpoint", "url", "uses"),
    [
        # Where nobody says whether it is https, a site with an authority of its own means it.
        ("s3://minio.lab:9000/b/k", "http://10.0.0.7:9000", "https://minio.lab:9000", True),
        ("s3://10.0.0.7:9000/b/k", "10.0.0.7:9000", "https://10.0.0.7:9000", True),
        ("s3://10.0.0.7:9000/b/k", "https://10.0.0.7:9000", "https://10.0.0.7:9000", True),
        ("s3://10.0.0.7:9000/b/k", "http://10.0.0.7:9000", "http://10.0.0.7:9000", False),
        # The great ones are known to everybody.
        ("s3://s3.amazonaws.com/b/k", "", "", False),
        (
            "s3://s3-fips.us-east-1.amazonaws.com/b/k",
            "",
            "https://s3-fips.us-east-1.amazonaws.com",
            False,
        ),
        (
            "s3://storage.googleapis.com/b/k",
            "",
            "https://storage.googleapis.com",
            False,
        ),
    ],
)
def test_a_sites_own_authority_is_for_its_own_servers(
    message: Messages, artifact: str, endpoint: str, url: str, uses: bool
) -> None:
    at = {"qualified": artifact}
    found = located(message, at, tls=OWN_CA, config__storage__endpoint=endpoint)
    assert found is not None
    assert (found.endpoint, found.tls) == (url, OWN_CA if uses else None)
    assert location_from(asdict(found)) == found


def test_half_a_pair_in_the_environment_is_none(message: Messages) -> None:
    env = {"AWS_ACCESS_KEY_ID": "ENV"}
    found = located(message, {"qualified": "s3://h:1/b/k"}, config__storage=None, config__env=env)
    assert found is not None
    assert found.credentials is None


def test_the_nearest_region_wins(message: Messages) -> None:
    def region(host: str, own: str, env: str) -> str:
        own_sent = {"aws": {**OWN_SENT["aws"], "region": own}}
        found = located(
            message,
            {"qualified": f"s3://{host}/b/k", "credentials": own_sent},
            config__storage__region="st-orage-1",
            config__env={"AWS_DEFAULT_REGION": env},
        )
        assert found is not None
        return found.region

    assert region("s3.eu-west-1.amazonaws.com", "us-east-2", "us-west-1") == "eu-west-1"
    assert region("h:1", "us-east-2", "us-west-1") == "us-east-2"
    assert region("10.0.0.7:9000", "", "us-west-1") == "st-orage-1"


# What is refused.


@pytest.mark.parametrize(
    ("artifact", "changes", "where", "what"),
    [
        ({"qualified": "ftp://h/x"}, {}, "", "no store is known by the address 'ftp'"),
        ({"qualified": "x.tar"}, {}, "", "no store is known"),
        ({"qualified": "shub://a/b"}, {}, "", "no store is known"),
        ({"qualified": "http://h/x", "mutable": True}, {}, ".qualified", "only be read"),
        ({"url": "https://h/x", "mutable": True}, {}, ".url", "only be read"),
        ({"url": "http:///x"}, {}, ".url", "no such address"),
        ({"url": "http://[::1/x"}, {}, ".url", "no such address"),
        ({"url": "http://h:99999/x"}, {}, ".url", "no such address"),
        ({"qualified": "s3://h:1/"}, {}, ".bucket", "no bucket"),
        ({"qualified": "s3://h:1/b"}, {}, ".key", "no key"),
        ({"qualified": "s3:///b/k"}, {}, ".qualified", "no host"),
        ({"qualified": "s3://h:1 x/b/k"}, {}, ".qualified", "is no host"),
        ({"qualified": "s3://h:1/b/k", "bucket": "../b"}, {}, ".bucket", "is no bucket"),
        ({"qualified": "s3://h:1/b/k", "bucket": "a/b"}, {}, ".bucket", "is no bucket"),
        ({"key": "k"}, {"config__storage": None}, ".qualified", "a key without an address"),
        (
            {"key": "k"},
            {"config__storage": {"type": "azure"}},
            ".qualified",
            "a key without an address",
        ),
        ({"key": "../x"}, {"config__storage": LOCAL}, ".key", "leaves the store's folder"),
        ({"key": "a/../../x"}, {"config__storage": LOCAL}, ".key", "leaves the store's folder"),
        ({"key": "/etc/shadow"}, {"config__storage": LOCAL}, ".key", "leaves the store's folder"),
        (
            {"qualified": "file://x", "key": "../../x"},
            {"config__storage": LOCAL},
            ".key",
            "leaves the store's folder",
        ),
        ({"qualified": "file:///a/../b"}, {}, ".qualified", "holds .."),
        ({"qualified": "file:///"}, {}, ".qualified", "no absolute path"),
        ({"qualified": "file:x"}, {}, ".qualified", "no absolute path"),
        ({"qualified": "file:///a", "key": "/a/../b"}, {}, ".key", "holds .."),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(
    message: Messages, artifact: dict[str, Any], changes: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(RequestError) as caught:
        located(message, artifact, **changes)
    assert caught.value.where == f"experiment.artifacts.a{where}"
    assert what in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("config.storage.endpoint", {"type": "local", "endpoint": "relative/folder"}),
        ("config.storage.endpoint", {"type": "local", "endpoint": "~other/folder"}),
        ("config.storage.endpoint", {"type": "local", "endpoint": "/a/../b"}),
        ("config.storage.bucket", {**LOCAL, "bucket": "../b"}),
        ("config.storage.bucket", {**LOCAL, "bucket": "/b"}),
        ("config.storage.endpoint", {"type": "s3", "endpoint": "ftp://h", "bucket": "b"}),
        ("config.storage.endpoint", {"type": "s3", "endpoint": "http://", "bucket": "b"}),
        ("config.storage.endpoint", {"type": "s3", "endpoint": "http://[::1", "bucket": "b"}),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(
    message: Messages, member: str, value: dict[str, Any]
) -> None:
    with pytest.raises(RequestError) as caught:
        located(message, {"key": "k"}, config__storage=value)
    assert caught.value.where == member


# The database record.


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        (None, None),
        ({"type": "http", "endpoint": "http://h"}, None),
        ({"type": "s3", "endpoint": "http://h:1"}, None),
        (
            {"type": "s3", "endpoint": "http://10.0.0.7:9000/", "bucket": "meta"},
            s3("http://10.0.0.7:9000", "meta", "experiments/e1", credentials=STORAGE),
        ),
        (
            {"type": "S3", "endpoint": "http://h:1", "bucket": "m", "credentials": OWN_SENT},
            s3("http://h:1", "m", "experiments/e1", credentials=OWN),
        ),
        (
            {"type": "s3", "endpoint": "http://h:1", "bucket": "m"},
            s3("http://h:1", "m", "experiments/e1"),
        ),
        (
            {"type": "s3", "endpoint": "http://s3-us-west-2.amazonaws.com", "bucket": "m"},
            s3("", "m", "experiments/e1", region="us-west-2"),
        ),
        (LOCAL, Location("file", "/shared/studio/studioml-meta/experiments/e1")),
        (
            {**LOCAL, "bucket": "m", "endpoint": "~"},
            Location("file", "/home/me/m/experiments/e1"),
        ),
    ],
)
def test_the_database_record_of_a_request(
    message: Messages, database: Any, expected: Location | None
) -> None:
    request = read(message(experiment__key="e1", config__database=database))
    assert resolve_record(request, StoreRules(home="/home/me")) == expected


def test_a_record_may_use_the_environments_credentials_where_allowed(message: Messages) -> None:
    database = {"type": "s3", "endpoint": "http://h:1", "bucket": "m"}
    request = read(message(config__database=database, config__env=ENV_SENT))
    allowed, refused = resolve_record(request), resolve_record(request, StoreRules(False))
    assert allowed is not None and refused is not None
    assert allowed.credentials == AwsCredentials("ENV", "ENVSECRET")
    assert refused.credentials is None


@pytest.mark.parametrize("key", ["..", "../x", "a/../../x"])
def test_a_key_that_climbs_out_of_the_database_is_refused(message: Messages, key: str) -> None:
    request = read(message(experiment__key=key, config__database=LOCAL))
    with pytest.raises(RequestError) as caught:
        resolve_record(request)
    assert caught.value.where == "experiment.key"


def test_a_home_is_that_of_the_user_unless_it_is_given(
    message: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/gateway")
    request = read(message(experiment__key="e1", config__database={"type": "local"}))
    assert resolve_record(request) == Location("file", "/home/gateway/studioml-meta/experiments/e1")


# Firebase: the address is a URL, the token a part of it.


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        (
            {"databaseURL": "https://{}.firebaseio.com/", "projectId": "p1", "apiKey": "x"},
            "https://p1.firebaseio.com/experiments/e1.json",
        ),
        (
            {"databaseURL": "http://h:9000/base", "credentials": {"jwt": {"token": "a&b"}}},
            "http://h:9000/base/experiments/e1.json?auth=a%26b",
        ),
    ],
)
def test_a_record_in_firebase_has_the_address_that_its_clients_use(
    message: Messages, database: dict[str, Any], expected: str
) -> None:
    request = read(message(experiment__key="e1", config__database={"type": "firebase", **database}))
    found = resolve_record(request)
    assert found is not None
    assert (found.scheme, found.endpoint) == ("firebase", expected)
    assert "a&b" not in repr((request, found))
    assert "a%26b" not in repr((request, found))


@pytest.mark.parametrize("url", ["ftp://h/", "https://", "https://h:x/", "nonsense"])
def test_a_firebase_database_without_a_web_address_is_refused(message: Messages, url: str) -> None:
    request = read(message(config__database={"type": "firebase", "databaseURL": url}))
    with pytest.raises(RequestError, match="databaseURL"):
        resolve_record(request)


def test_a_firebase_database_that_names_no_address_is_none(message: Messages) -> None:
    request = read(message(config__database={"type": "firebase", "projectId": "goldengun"}))
    assert resolve_record(request) is None
