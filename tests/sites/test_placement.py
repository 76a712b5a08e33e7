"""Which partition and GPU type a request gets, and with what limits."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.request.model import Resources
from hpcrunner.sites.placement import NoFit, place
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

MIB, GIB = 1024**2, 1024**3
HOUR, DAY = 3600, 86400

CPU = {"name": "cpu", "max_time": "2-00:00:00", "max_cpus": 64, "max_memory": "250G"}
GPU = {
    "name": "gpu",
    "max_time": "1-00:00:00",
    "max_cpus": 32,
    "max_memory": "500G",
    "gpus_only": True,
    "gpus": [
        {"type": "a100", "memory": "80G", "count": 4},
        {"type": "v100", "memory": "32G", "count": 8},
        {"type": "t4", "memory": "16G", "count": 2},
    ],
}
LONG = {"name": "long", "max_cpus": 128}


def site(*partitions: dict[str, Any], **keys: Any) -> Site:
    return Site.model_validate({"name": "here", "partitions": partitions, **keys})


def wanted(**resources: int) -> Resources:
    return Resources(**resources)


@pytest.mark.parametrize(
    ("resources", "partition", "gpu_type"),
    [
        (wanted(), "cpu", ""),
        (wanted(cpus=64), "cpu", ""),
        (wanted(cpus=65), "long", ""),
        (wanted(ram=250 * GIB), "cpu", ""),
        (wanted(ram=250 * GIB + 1), "long", ""),
        (wanted(gpus=1), "gpu", "t4"),
        (wanted(gpus=2), "gpu", "t4"),
        (wanted(gpus=3), "gpu", "v100"),
        (wanted(gpus=8), "gpu", "v100"),
        (wanted(gpus=1, gpu_memory=16 * GIB), "gpu", "t4"),
        (wanted(gpus=1, gpu_memory=16 * GIB + 1), "gpu", "v100"),
        (wanted(gpus=4, gpu_memory=40 * 10**9), "gpu", "a100"),
        (wanted(gpus=0, gpu_memory=40 * 10**9), "cpu", ""),
    ],
)
def test_the_first_partition_that_fits_and_in_it_the_smallest_gpu(
    resources: Resources, partition: str, gpu_type: str
) -> None:
    spec = place(resources, site(CPU, GPU, LONG))
    assert (spec.partition, spec.gpu_type, spec.gpus) == (partition, gpu_type, resources.gpus)


def test_the_order_of_the_file_decides_between_partitions_that_fit() -> None:
    open_to_all = {**GPU, "gpus_only": False}
    assert place(wanted(), site(open_to_all, CPU)).partition == "gpu"
    assert place(wanted(), site(CPU, open_to_all)).partition == "cpu"


def test_a_partition_for_gpus_only_is_passed_over_wherever_it_stands() -> None:
    assert place(wanted(), site(GPU, CPU)).partition == "cpu"
    with pytest.raises(NoFit, match="gpu: takes only requests with GPUs"):
        place(wanted(), site(GPU))


def test_of_gpus_with_equal_memory_the_first_listed_is_taken() -> None:
    twins = [{"type": name, "memory": "80G", "count": 4} for name in ("h100", "a100")]
    assert place(wanted(gpus=1), site({"name": "g", "gpus": twins})).gpu_type == "h100"


def test_untyped_gpus_are_asked_for_without_a_type() -> None:
    spec = place(wanted(gpus=2), site({"name": "g", "gpus": [{"memory": "40G", "count": 4}]}))
    assert (spec.gpus, spec.gpu_type) == (2, "")


def test_one_partition_may_stand_twice_for_two_kinds_of_nodes() -> None:
    small = {"name": "g", "max_memory": "64G", "gpus": [GPU["gpus"][2]]}  # type: ignore[index]
    large = {"name": "g", "max_memory": "1T", "gpus": [GPU["gpus"][0]]}  # type: ignore[index]
    spec = place(wanted(gpus=1, ram=100 * GIB), site(small, large))
    assert (spec.partition, spec.gpu_type) == ("g", "a100")
    with pytest.raises(NoFit) as caught:
        place(wanted(gpus=1, ram=2000 * GIB), site(small, large, small, CPU, LONG))
    assert caught.value.line().count("64 GiB allowed") == 1


def test_partitions_that_fail_alike_are_told_together() -> None:
    plain = {"name": "a"}
    with pytest.raises(NoFit, match="partition: a, b: no GPUs; ask for less"):
        place(wanted(gpus=1), site(plain, {"name": "b"}, plain))


def test_a_request_that_fits_nowhere_is_told_why_for_each_partition() -> None:
    with pytest.raises(NoFit) as caught:
        place(
            wanted(gpus=9, cpus=100, ram=600 * GIB, gpu_memory=20 * GIB),
            site(CPU, GPU, LONG),
            max_duration=3 * DAY,
        )
    assert caught.value.line() == (
        "site here: the request fits no partition: "
        "cpu: 100 CPUs asked, 64 allowed and 600 GiB of memory asked, 250 GiB allowed and "
        "3-00:00:00 of time asked, 2-00:00:00 allowed and no GPUs; "
        "gpu: 100 CPUs asked, 32 allowed and 600 GiB of memory asked, 500 GiB allowed and "
        "3-00:00:00 of time asked, 1-00:00:00 allowed and 9 GPUs asked, a100 has 4 and "
        "9 GPUs asked, v100 has 8 and 20 GiB of GPU memory asked, t4 has 16 GiB; "
        "long: no GPUs; ask for less (gpuMem is the memory of each GPU), or correct the "
        "partitions in the site file"
    )


@pytest.mark.parametrize(
    ("max_duration", "lifetime", "default", "partition", "limit"),
    [
        # max_duration and ten minutes for staging, in whole minutes
        (75.0, None, None, "cpu", 12 * 60),
        (60.0, None, None, "cpu", 11 * 60),
        (60.1, None, None, "cpu", 12 * 60),
        # never more than the partition allows, which must allow max_duration itself
        (2 * DAY, None, None, "cpu", 2 * DAY),
        (2 * DAY + 1, None, None, "long", 2 * DAY + 11 * 60),
        # no max_duration: the default, else all that the partition allows
        (None, None, "04:00:00", "cpu", 4 * HOUR),
        (None, None, "3-00:00:00", "long", 3 * DAY),
        (None, None, None, "cpu", 2 * DAY),
        # a lifetime shortens and never forbids
        (None, HOUR, None, "cpu", HOUR + 600),
        (None, HOUR, "04:00:00", "cpu", HOUR + 600),
        (3 * DAY, HOUR, None, "cpu", HOUR + 600),
        (None, 90 * DAY, None, "cpu", 2 * DAY),
        (60.0, 90 * DAY, None, "cpu", 11 * 60),
    ],
)
def test_the_time_limit(
    max_duration: float | None,
    lifetime: float | None,
    default: str | None,
    partition: str,
    limit: int,
) -> None:
    here = site(CPU, LONG, defaults={"time_limit": default} if default else {})
    spec = place(wanted(), here, max_duration=max_duration, lifetime=lifetime)
    assert (spec.partition, spec.time_limit) == (partition, limit)


def test_without_any_bound_the_partitions_own_limit_rules() -> None:
    assert place(wanted(), site(LONG)).time_limit == 0


def test_what_the_request_leaves_out_comes_from_the_sites_defaults() -> None:
    here = site(CPU, defaults={"cpus": 3, "memory": "2G"})
    spec = place(wanted(cpus=0), here)
    assert (spec.cpus, spec.memory) == (3, 2 * GIB)
    asked = place(wanted(cpus=2, ram=3 * 10**9), here)
    assert (asked.cpus, asked.memory) == (2, 2862 * MIB)
    assert place(wanted(), site(CPU)).memory == 0


def test_disk_is_asked_for_only_where_the_site_says_so() -> None:
    assert place(wanted(hdd=10**9), site(CPU)).tmp == 0
    assert place(wanted(hdd=10**9), site(CPU, tmp=True)).tmp == 954 * MIB


def test_a_partitions_words_replace_or_follow_the_sites() -> None:
    special = {**CPU, "qos": "fast", "directives": ["--nice=5"]}
    here = site(special, account="lab", qos="slow", directives=["--exclusive"], requeue=True)
    spec = place(wanted(), here)
    assert (spec.account, spec.qos, spec.requeue) == ("lab", "fast", True)
    assert spec.directives == ("--exclusive", "--nice=5")


def test_a_site_without_partitions_uses_the_clusters_default_one() -> None:
    assert place(wanted(cpus=500), site()) == JobSpec(cpus=500)
    with pytest.raises(NoFit, match="default: no GPUs"):
        place(wanted(gpus=1), site())


def test_a_job_has_the_memory_to_install_packages_in_but_never_more_than_its_partition() -> None:
    assert place(wanted(ram=GIB // 4), site(CPU)).memory == GIB
    roomy = site(CPU).model_copy(update={"least_memory": 2 * GIB})
    assert place(wanted(ram=GIB // 4), roomy).memory == 2 * GIB
    assert place(wanted(ram=3 * GIB), roomy).memory == 3 * GIB
    tight = site({"name": "small", "max_memory": "512M"})
    assert place(wanted(ram=GIB // 4), tight).memory == GIB // 2


def test_the_local_scheduler_holds_what_this_machine_has() -> None:
    here = Site.model_validate({"scheduler": "local", "local": {"cpus": 4, "memory": "8G"}})
    assert place(wanted(cpus=4, ram=8 * GIB), here).partition == ""
    with pytest.raises(NoFit, match=r"local: 5 CPUs asked, 4 allowed and 9 GiB of memory asked"):
        place(wanted(cpus=5, ram=9 * GIB), here)


@given(
    cpus=st.integers(0, 200),
    gpus=st.integers(0, 12),
    gpu_memory=st.integers(0, 100 * GIB),
    ram=st.integers(0, 600 * GIB),
    hours=st.none() | st.integers(1, 100),
)
def test_a_placed_request_fits_its_partition_and_no_earlier_one(
    cpus: int, gpus: int, gpu_memory: int, ram: int, hours: int | None
) -> None:
    here = site(CPU, GPU, LONG)
    resources = wanted(cpus=cpus, gpus=gpus, gpu_memory=gpu_memory, ram=ram)
    duration = None if hours is None else float(hours * HOUR)
    fits = [p.name for p in here.partitions if _holds(p, resources, duration)]
    try:
        spec = place(resources, here, max_duration=duration)
    except NoFit:
        assert fits == []
        return
    assert spec.partition == fits[0]
    assert spec.memory >= ram
    assert spec.memory - max(ram, min(ram, 1) * GIB) < MIB
    assert spec.time_limit % 60 == 0
    if gpus:
        types = {g.type: g for g in here.partitions[1].gpus}
        chosen = types[spec.gpu_type]
        others = [g for g in types.values() if g.memory < chosen.memory]
        assert chosen.memory >= gpu_memory
        assert all(g.memory < gpu_memory or g.count < gpus for g in others)


def _holds(partition: Any, resources: Resources, duration: float | None) -> bool:
    return (
        max(resources.cpus, 1) <= (partition.max_cpus or 10**6)
        and resources.ram <= (partition.max_memory or 10**18)
        and (duration or 0) <= (partition.max_time or 10**9)
        and (bool(resources.gpus) or not partition.gpus_only)
        and (
            not resources.gpus
            or any(
                g.memory >= resources.gpu_memory and g.count >= resources.gpus
                for g in partition.gpus
            )
        )
    )
