"""The container's exec line, and which images a message may name."""

import pytest

from hpcrunner.batch.container import ImageRefused, exec_words, image_word
from hpcrunner.sites.parts import Container


@pytest.mark.parametrize(
    ("qualified", "word"),
    [
        ("docker://ubuntu:22.04", "docker://ubuntu:22.04"),
        ("dockerhub://tensorflow/tensorflow:2.1", "docker://tensorflow/tensorflow:2.1"),
        ("shub://owner/image:tag", "shub://owner/image:tag"),
        ("library://owner/collection/image", "library://owner/collection/image"),
        ("oras://registry/image@sha256:0", "oras://registry/image@sha256:0"),
        ("/images/a.sif", "/images/a.sif"),
        ("file:///images/a.sif", "/images/a.sif"),
    ],
)
def test_an_image_is_named_as_the_runtime_knows_it(qualified: str, word: str) -> None:
    assert image_word(qualified) == word


@pytest.mark.parametrize(
    "qualified",
    [
        "",
        "ubuntu",
        "images/a.sif",
        "../a.sif",
        "--fakeroot",
        "docker://",
        "dockerhub://",
        "file://host/a.sif",
        "instance://mine",
        "docker-daemon://x",
        "http://host/a.sif",
        "s3://bucket/a.sif",
        "docker://a b",
        "/a\nb",
        "/a\0b",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(qualified: str) -> None:
    with pytest.raises(ImageRefused, match="allowed: docker://, dockerhub://") as caught:
        image_word(qualified)
    assert "\n" not in caught.value.line()


def test_the_payload_runs_in_its_folders_with_gpus_only_if_it_has_some() -> None:
    container = Container(runtime="apptainer", options=("--bind", "/data"))
    words = exec_words(container, "docker://a", 0)
    assert words == (
        *("apptainer", "exec", "--contain", "--home", "@ROOT@", "--pwd", "@WORKSPACE@"),
        *("--bind", "/data", "docker://a"),
    )
    assert "--nv" in exec_words(container, "docker://a", 2)
    assert exec_words(Container(runtime="singularity"), "/a.sif", 0)[0] == "singularity"


def test_a_site_without_containers_says_so() -> None:
    with pytest.raises(ImageRefused, match=r"this site runs none; set container\.runtime"):
        exec_words(Container(), "docker://a", 0)
