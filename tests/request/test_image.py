"""One image has one normal form, and what a site trusts cannot be passed for by another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.request.errors import RequestError
from hpcrunner.request.image import ImageRefused, PlannedImage, changes, parse_image
from hpcrunner.request.model import AwsCredentials, Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.trust import (
    ImageRules,
    named_image,
    parse_pin,
    parse_prefix,
    parse_registry,
    planned_image,
)

Messages = Callable[..., bytes]
SHA = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


def read(body: bytes) -> Request:
    request = parse_message(body)
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("docker://ubuntu", "docker://docker.io/library/ubuntu:latest"),
        ("dockerhub://tensorflow/serving:2", "docker://docker.io/tensorflow/serving:2"),
        ("docker://docker.io/tensorflow/x", "docker://docker.io/tensorflow/x:latest"),
        ("docker://index.docker.io/tensorflow/x", "docker://docker.io/tensorflow/x:latest"),
        ("docker://registry-1.docker.io:443/a/x", "docker://docker.io/a/x:latest"),
        ("DOCKER://NVCR.io/nvidia/pytorch:24.01", "docker://nvcr.io/nvidia/pytorch:24.01"),
        ("docker://localhost:05000/a/b/c", "docker://localhost:5000/a/b/c:latest"),
        (f"docker://x/y:1@sha256:{SHA}", f"docker://docker.io/x/y@sha256:{SHA}"),
        ("oras://reg.example/team/image:1", "oras://reg.example/team/image:1"),
        ("library://alpine:3.18", "library://library/default/alpine:3.18"),
        ("library://sylabs/tests/x", "library://sylabs/tests/x:latest"),
        ("library://Lib.example.org/e/c/x:1", "library://lib.example.org/e/c/x:1"),
        (f"library://a/b/c:sha256:{SHA}", f"library://a/b/c:sha256.{SHA}"),
        ("shub://vsoch/hello-world", "shub://vsoch/hello-world:latest"),
        ("shub://singularity-hub.org/a/b:1", "shub://a/b:1"),
        ("/apps//images/a.sif", "/apps/images/a.sif"),
        ("file:///apps/a.sif", "/apps/a.sif"),
        ("/sandboxes/torch/", "/sandboxes/torch"),
    ],
)
def test_however_it_is_spelt_an_image_has_one_form(written: str, normal: str) -> None:
    parsed = parse_image(written)
    assert parsed.text == normal
    assert parse_image(parsed.text) == parsed


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ubuntu",
        "images/a.sif",
        "docker:ubuntu",
        "docker://",
        "docker:///etc/passwd",
        "docker://a//b",
        "docker://a/../b",
        "docker://Upper/case",
        "docker://user:password@registry.example/x",
        "docker://user@registry.example/x",
        "docker://registry.example./x",
        "docker://reg..example/x",
        "docker://-registry.example/x",
        "docker://registry.example:99999/x",
        "docker://registry.example:0/x",
        "docker://x?tag=y",
        "docker://x#y",
        "docker://x y",
        "docker://x\\y",
        "docker://x@sha256:123",
        f"docker://x@md5:{SHA}",
        "docker://tensorflow%2fx",
        "docker://ex\u0430mple.org/x",  # a letter that only looks like another
        "docker://x:tag:tag",
        "oras://team/image",
        "oras://registry.example",
        "library://a/b/c/d/e",
        "library://host.example/c/x",
        "library://a/../b",
        "shub://vsoch",
        "shub://host.example/x",
        "file://host/a.sif",
        "/apps/../etc/shadow",
        "/apps/./a.sif",
        "/",
        "ftp://example.org/a.sif",
        "docker-daemon://x",
        "instance://x",
        "/a\nb",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_in_one_line(written: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        parse_image(written)
    assert refused.value.exit_code == 65
    assert "\n" not in refused.value.line()
    assert "_singularity" in refused.value.line()


def test_only_what_is_named_by_its_digest_never_changes() -> None:
    assert changes("docker://docker.io/library/ubuntu:latest")
    assert changes("shub://a/b:latest@" + "0" * 32)
    assert not changes(f"docker://docker.io/x/y@sha256:{SHA}")
    assert not changes(f"library://a/b/c:sha256.{SHA}")


def allowed(image: str, *prefixes: str) -> bool:
    rules = ImageRules(trusted=tuple(map(parse_prefix, prefixes)))
    try:
        named_image(image, rules)
    except ImageRefused as error:
        assert "does not trust" in error.what
        return False
    return True


@pytest.mark.parametrize(
    ("prefix", "image"),
    [
        ("docker://tensorflow/", "dockerhub://tensorflow/serving"),
        ("dockerhub://tensorflow/", "docker://index.docker.io/tensorflow/x@sha256:" + SHA),
        ("docker://tensorflow/serving", "docker://tensorflow/serving:2.1"),
        ("docker://ubuntu:22.04", "docker://docker.io/library/ubuntu:22.04"),
        ("docker://nvcr.io", "docker://nvcr.io/nvidia/pytorch:1"),
        ("docker://Registry.example:5000/team/", "docker://registry.example:5000/team/a/b"),
        ("docker://", "docker://anything.example/x"),
        ("oras://registry.example/", "oras://registry.example/x:1"),
        ("library://sylabs/", "library://sylabs/tests/x"),
        ("shub://sentient-singularity/", "shub://sentient-singularity/x"),
        ("/apps/images", "/apps/images/a.sif"),
        ("/apps/images/", "file:///apps/images/deeper/a.sif"),
        ("/", "/anywhere/a.sif"),
        ("s3://images/prod/", "s3://s3.eu-west-1.amazonaws.com/images/prod/a.sif"),
        ("s3://minio.example:9000/images", "s3://minio.example:9000/images/a.sif"),
        ("gs://images/", "gs://images/a.sif"),
        ("https://Example.org:443/images/", "https://example.org/images/a.sif?version=1"),
    ],
)
def test_a_prefix_covers_what_is_below_it(prefix: str, image: str) -> None:
    assert allowed(image, "/elsewhere/", prefix)


@pytest.mark.parametrize(
    ("prefix", "image"),
    [
        ("docker://trusted.example", "docker://trusted.example.evil/x"),
        ("docker://trusted.example/", "docker://trusted.example:5000/x"),
        ("docker://tensorflow/", "docker://tensorflow-evil/x"),
        ("docker://tensorflow/", "docker://evil.example/tensorflow/x"),
        ("docker://tensorflow/", "docker://tensorflow"),
        ("docker://tensorflow/serving", "docker://tensorflow/serving-evil"),
        ("docker://ubuntu:22.04", "docker://ubuntu:24.04"),
        (f"docker://x/y@sha256:{SHA}", "docker://x/y:latest"),
        ("docker://tensorflow/", "oras://docker.io/tensorflow/x"),
        ("oras://registry.example/team/", "oras://registry.example/team2/x"),
        ("/apps/images", "/apps/images-of-others/a.sif"),
        ("s3://images/", "s3://images.example:9000/x/a.sif"),
        ("s3://minio.example/images/", "s3://minio.example:9000/images/a.sif"),
        ("https://example.org/images/", "https://example.org.evil/images/a.sif"),
        ("https://example.org/", "http://example.org/a.sif"),
        ("https://example.org/images/", "https://evil.example/example.org/images/a.sif"),
    ],
)
def test_what_only_looks_like_it_is_not_covered(prefix: str, image: str) -> None:
    assert not allowed(image, prefix)


@pytest.mark.parametrize(
    "image",
    [
        "https://example.org/images/../evil.sif",
        "https://example.org/images/%2e%2e/evil.sif",
        "https://example.org/images/..;a/evil.sif",
        "https://example.org/images%2f..%2fevil.sif",
        "https://example.org//images/evil.sif",
        "s3://minio.example/images/../evil/a.sif",
        "gs://images/../x.sif",
    ],
)
def test_an_address_that_climbs_is_no_image(image: str) -> None:
    with pytest.raises(ImageRefused, match="not an address of one image"):
        named_image(image, ImageRules())


def test_a_known_scheme_is_not_called_unknown() -> None:
    with pytest.raises(ImageRefused) as refused:
        named_image("docker://Python:3", ImageRules())
    assert "lower case" in refused.value.line()
    assert "allowed" not in refused.value.line()
    with pytest.raises(ImageRefused, match=r"not a container image.*allowed: docker://"):
        named_image("dokcer://python:3", ImageRules())


@pytest.mark.parametrize(
    "prefix", ["", "tensorflow", "ftp://x/", "docker:///", "https://u@x/", "https://[::"]
)
def test_a_prefix_that_could_cover_nothing_is_refused(prefix: str) -> None:
    with pytest.raises(ImageRefused):
        parse_prefix(prefix)


def test_a_pin_takes_the_place_of_a_registrys_tag() -> None:
    rules = ImageRules(pinned=(parse_pin("dockerhub://ubuntu:22.04", f"sha256:{SHA}"),))
    pinned = named_image("docker://index.docker.io/library/ubuntu:22.04", rules)
    assert pinned.reference == f"docker://docker.io/library/ubuntu@sha256:{SHA}"
    assert pinned.digest == ""
    assert named_image("docker://ubuntu:24.04", rules).reference.endswith(":24.04")


def test_a_pin_of_a_file_is_the_digest_that_the_file_must_have() -> None:
    rules = ImageRules(
        pinned=(
            parse_pin("/apps/a.sif", SHA.upper()),
            parse_pin("s3://minio.example:9000/b/a.sif", SHA),
        )
    )
    assert named_image("file:///apps/a.sif", rules).digest == SHA
    stored = named_image("s3://MINIO.example:9000/b/a.sif", rules)
    assert stored.digest == SHA
    assert named_image(f"library://a/b/c:sha256.{SHA}", rules).digest == SHA


@pytest.mark.parametrize("spelling", ["a%20b.sif", "%61%20b.sif", "a%20b.sif?v=2#x"])
def test_a_pin_holds_for_each_spelling_of_a_web_address(spelling: str) -> None:
    rules = ImageRules(pinned=(parse_pin("https://example.org/i/a%20b.sif", SHA),))
    assert named_image(f"https://example.org/i/{spelling}", rules).digest == SHA


def test_a_digest_that_is_none_is_refused() -> None:
    for digest in ("", "latest", "sha256:12", f"md5:{SHA}"):
        with pytest.raises(ImageRefused, match="no SHA-256"):
            parse_pin("/apps/a.sif", digest)


def test_a_site_that_wants_signatures_takes_no_docker_images() -> None:
    with pytest.raises(ImageRefused, match="no signature"):
        named_image("docker://ubuntu", ImageRules(signed=True))
    assert named_image("library://alpine", ImageRules(signed=True)).reference


def test_a_registry_is_named_by_its_host() -> None:
    assert parse_registry("Registry.cluster:5000") == "registry.cluster:5000"
    with pytest.raises(ImageRefused):
        parse_registry("https://registry.cluster")


@given(st.text(max_size=40))
def test_any_text_is_an_image_or_a_refusal(text: str) -> None:
    for written in (text, f"docker://{text}", f"library://{text}", f"shub://{text}", f"/{text}"):
        try:
            parsed = parse_image(written)
        except ImageRefused:
            continue
        if parsed.kind != "store":
            assert parse_image(parsed.text).text == parsed.text
        assert ".." not in parsed.parts


@given(st.sampled_from(["docker://", "s3://", "https://", "library://", "/"]), st.text(max_size=30))
def test_any_prefix_of_a_site_is_one_or_a_refusal(scheme: str, text: str) -> None:
    with suppress(ImageRefused, RequestError):
        rules = ImageRules(trusted=(parse_prefix(scheme + text),))
        named_image(scheme + text, rules)


def test_a_message_may_name_an_image_by_digest_and_with_a_password(message: Messages) -> None:
    def of(qualified: str) -> PlannedImage | None:
        image = {"qualified": qualified, "mutable": False}
        return planned_image(read(message(experiment__artifacts___singularity=image)))

    planned = of(f"docker://python@sha256:{SHA}")
    assert planned is not None
    assert planned.reference == f"docker://docker.io/library/python@sha256:{SHA}"
    planned = of("docker://alice:s3cr3t@registry.example/team/image:1")
    assert planned is not None
    assert planned.reference == "docker://registry.example/team/image:1"
    assert (planned.user, planned.password) == ("alice", "s3cr3t")
    with pytest.raises(ImageRefused) as refused:
        of(f"docker://alice:s3cr3t@python@sha256:{SHA}")
    assert "s3cr3t" not in refused.value.line()


def test_a_registrys_login_comes_with_the_artifact(message: Messages) -> None:
    image = {
        "qualified": "oras://registry.example/x:1",
        "credentials": {"plain": {"user": "u", "password": "p"}},
    }
    planned = planned_image(read(message(experiment__artifacts___singularity=image)))
    assert planned is not None
    assert (planned.user, planned.password, planned.location) == ("u", "p", None)


def test_an_image_in_a_store_has_its_address_with_the_requests_own_keys(message: Messages) -> None:
    image = {"qualified": "s3://10.0.0.7:9000/store/a.sif", "mutable": True}
    planned = planned_image(read(message(experiment__artifacts___singularity=image)))
    assert planned is not None and planned.location is not None
    assert planned.reference == "s3://10.0.0.7:9000/store/a.sif"
    assert planned.location.credentials == AwsCredentials("AK", "SK")
    assert "SK" not in repr(planned)


def test_the_bucket_and_key_that_win_are_those_that_are_judged(message: Messages) -> None:
    """Explicit members beat the address; so the address must not be what trust looks at."""
    image = {"qualified": "s3://10.0.0.7:9000/store/a.sif", "bucket": "evil", "key": "b.sif"}
    request = read(message(experiment__artifacts___singularity=image))
    rules = ImageRules(trusted=(parse_prefix("s3://10.0.0.7:9000/store/"),))
    with pytest.raises(ImageRefused, match="evil"):
        planned_image(request, rules)


def test_a_request_without_an_image_gets_the_sites(message: Messages) -> None:
    rules = ImageRules(default="/apps/base.sif", trusted=())
    planned = planned_image(read(message()), rules)
    assert planned is not None
    assert planned.reference == "/apps/base.sif"
    assert planned_image(read(message())) is None
