"""What Grid Engine is asked for: the native specification's words, and the output's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.drmaa import NativeRefused
from hpcrunner.batch.gridengine import drmaa_job, native_specification, output_pattern
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

GIB = 1024**3


def words(names: dict[str, Any] | None = None, size: int = 1, **spec: Any) -> str:
    site = Site(scheduler="gridengine", spool="/spool", gridengine=names or {})
    return native_specification(Batch("ab", JobSpec(**spec), size, Path("/spool/b")), site)


def test_a_bare_job_asks_for_nothing_but_a_warning_before_its_end() -> None:
    assert words() == "-notify -r n"


def test_a_whole_job_is_asked_for_in_words_without_quotes() -> None:
    asked = words(
        {"parallel_environment": "shared", "gpu_type_resource": "gpu_type", "priority": -5},
        partition="gpu.q",
        account="research",
        cpus=4,
        memory=4 * GIB + 1,
        time_limit=720,
        gpus=2,
        gpu_type="a100",
        requeue=True,
        directives=("-l os=el9", "-R y"),
        exclude=("n1", "n2.example.org", "a b"),
    )
    assert asked == (
        "-q gpu.q -P research -pe shared 4"
        " -l h_rt=720,h_vmem=1025M,gpu=2,gpu_type=a100,h=!(n1|n2.example.org)"
        " -p -5 -notify -r y -l os=el9 -R y"
    )


def test_one_excluded_host_stands_without_brackets() -> None:
    assert "-l h=!n1 " in words(exclude=("n1",))


def test_a_host_that_has_no_hosts_name_is_not_excluded() -> None:
    assert words(exclude=("a b", "*")) == "-notify -r n"


def test_a_site_that_finds_queues_itself_is_given_none() -> None:
    assert "-q" not in words({"queue_named": False}, partition="people call it so")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"memory_per": "job"}, "h_vmem=8192M"),
        ({"memory_per": "slot"}, "h_vmem=2731M"),
        ({"memory_resources": ["mem_free", "h_vmem"]}, "mem_free=2731M,h_vmem=2731M"),
    ],
)
def test_memory_is_for_each_slot_or_for_the_job(names: dict[str, Any], wanted: str) -> None:
    assert f"-l {wanted} " in words(names, cpus=3, memory=8 * GIB)


def test_memory_is_not_asked_for_without_a_resource() -> None:
    assert words({"memory_resources": []}, memory=GIB) == "-notify -r n"


def test_gpus_counted_by_slot_are_shared_out() -> None:
    assert "gpu=2" in words({"gpus_per": "slot"}, cpus=2, gpus=4)
    with pytest.raises(NativeRefused, match=r"gpus_per.*1 GPUs .* 4 CPUs"):
        words({"gpus_per": "slot"}, cpus=4, gpus=1)


def test_the_output_is_named_by_the_index() -> None:
    def pattern(folder: str, size: int) -> str:
        return output_pattern(Batch("ab", JobSpec(), size, Path(folder)))

    assert pattern("/spool/b", 1) == "/spool/b/logs/1.out"
    assert pattern("/spool/b", 3) == "/spool/b/logs/$drmaa_incr_ph$.out"
    for bad in ("/a$HOME/b", "/a:b", "/a,b", "/a b"):
        with pytest.raises(NativeRefused, match="key spool"):
            pattern(bad, 1)


def test_the_script_is_the_command_itself() -> None:
    job = drmaa_job(Batch("ab", JobSpec(), 1, Path("/s/b")), Site(scheduler="gridengine"))
    assert job.command == "/s/b/script"
