"""The container's exec line."""

import pytest

from hpcrunner.batch.container import exec_words
from hpcrunner.request.image import ImageRefused
from hpcrunner.sites.container import Container
from hpcrunner.sites.spec import JobSpec


def words(*, run: bool = False, vendor: str = "", **keys: object) -> tuple[str, ...]:
    container = Container(**{"runtime": "apptainer", **keys})
    return exec_words(container, JobSpec(gpu_vendor=vendor), run=run)


ALONE = (*("--containall", "--cleanenv", "--no-mount", "hostfs,bind-paths", "--workdir", "@TMP@"),)
OURS = (*("--no-eval", "--env-file", "@ENVIRONMENT@", "--home", "@ROOT@", "--pwd", "@WORKSPACE@"),)

ROOT = ("--bind", "@STUDIOML_HOME@")


def test_a_payload_sees_its_own_folders_and_variables_alone() -> None:
    assert words() == ("apptainer", "--quiet", "exec", *ALONE, *OURS, *ROOT, "@BINDS@", "@IMAGE@")


def test_the_sites_words_stand_before_the_image() -> None:
    line = words(
        program="/opt/apptainer/bin/apptainer",
        isolation=False,
        userns=True,
        binds=("/datasets:/datasets:ro", "$SCRATCH"),
        options=("--unsquash",),
    )
    assert line == (
        *("/opt/apptainer/bin/apptainer", "--quiet", "exec", "--userns", *OURS),
        *("--bind", "/datasets:/datasets:ro", "--bind", "$SCRATCH"),
        *ROOT,
        *("@BINDS@", "--unsquash", "@IMAGE@"),
    )


def test_both_runtimes_get_the_same_words() -> None:
    assert words(runtime="singularity")[1:] == words()[1:]
    assert words(runtime="singularity")[0] == "singularity"


@pytest.mark.parametrize(("vendor", "option"), [("nvidia", "--nv"), ("amd", "--rocm"), ("", None)])
def test_graphics_libraries_go_in_with_gpus_of_their_maker_only(
    vendor: str, option: str | None
) -> None:
    assert [word for word in words(vendor=vendor) if word in ("--nv", "--rocm")] == (
        [option] if option else []
    )


def test_without_a_script_the_images_own_program_runs() -> None:
    assert words(run=True)[2] == "run"


def test_a_site_without_containers_says_so() -> None:
    with pytest.raises(ImageRefused, match=r"this site runs none; set container\.runtime"):
        words(runtime="none")
