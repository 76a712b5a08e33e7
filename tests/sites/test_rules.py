"""Rules for many users: the first that fits counts, and it only ever takes away."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hpcrunner.request.model import Resources
from hpcrunner.sites.placement import NoFit, place
from hpcrunner.sites.rules import RuledOut, may_be_capped, rule_for, weight_of
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

GIB = 1024**3

SITE = Site.model_validate(
    {
        "name": "hpc",
        "account": "all",
        "directives": ["--reservation=course"],
        "defaults": {"time_limit": "08:00:00"},
        "partitions": [
            {"name": "cpu", "max_cpus": 64, "max_time": "1-00:00:00", "qos": "normal"},
            {
                "name": "gpu",
                "max_cpus": 64,
                "gpus": [{"type": "a100", "memory": "80G", "count": 4}],
                "directives": ["--constraint=nvlink"],
            },
        ],
        "rules": [
            {"name": "banned", "owners": "^mallory$", "allowed": False},
            {
                "name": "vips",
                "queues": "^rmq_vip_",
                "signed": True,
                "account": "vip",
                "qos": "high",
                "partitions": ["gpu", "cpu"],
            },
            {
                "name": "students",
                "queues": "^rmq_students_",
                "account": "limited",
                "max_cpus": 8,
                "max_gpus": 1,
                "max_memory": "16G",
                "max_time": "02:00:00",
                "directives": ["--nice=100"],
                "max_jobs_per_owner": 2,
            },
            {"name": "cpu-only", "queues": "^rmq_cpu_", "max_gpus": 0, "partitions": ["gpu"]},
            {"name": "hand", "queues": "^local_submit$"},
        ],
    }
)


def placed(
    queue: str = "rmq_students_1", owner: str = "ann", *, signed: bool = False, **asked: Any
) -> JobSpec:
    times = {k: asked.pop(k) for k in ("max_duration", "lifetime") if k in asked}
    rule = rule_for(SITE.rules, queue=queue, owner=owner, signed=signed)
    return place(Resources(**{"cpus": 1, **asked}), SITE, rule=rule, **times)


def test_the_first_rule_that_fits_queue_owner_and_signature_counts() -> None:
    def name(queue: str, owner: str = "ann", *, signed: bool = False) -> str:
        rule = rule_for(SITE.rules, queue=queue, owner=owner, signed=signed)
        assert rule is not None
        return rule.name

    assert name("rmq_vip_ann", signed=True) == "vips"
    assert name("rmq_students_vip_") == "students"
    assert name("local_submit", owner="", signed=True) == "hand"
    with pytest.raises(RuledOut, match=r"none of the site's rules .*rmq_vip_ann.*not signed"):
        name("rmq_vip_ann")
    with pytest.raises(RuledOut, match=r"rule banned runs none of these .*'mallory'"):
        name("rmq_vip_ann", "mallory", signed=True)


def test_a_site_without_rules_runs_everybody() -> None:
    assert rule_for((), queue="rmq_a", owner="x", signed=False) is None


def test_a_rule_gives_account_qos_partitions_and_directives() -> None:
    vip = placed("rmq_vip_ann", signed=True)
    assert (vip.partition, vip.account, vip.qos) == ("gpu", "vip", "high")
    student = placed()
    assert (student.partition, student.account, student.qos) == ("cpu", "limited", "normal")
    assert student.directives == ("--reservation=course", "--nice=100")


def test_equal_requests_of_two_owners_under_one_rule_still_travel_as_one_array() -> None:
    assert placed(owner="ann") == placed(owner="bob", queue="rmq_students_2")
    assert placed() != placed("local_submit")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cpus": 9}, "cpu, gpu: 9 CPUs asked, 8 allowed"),
        ({"gpus": 2}, "2 GPUs asked, a100 has 1"),
        ({"ram": 20 * GIB}, "20 GiB of memory asked, 16 GiB allowed"),
        ({"max_duration": 7201.0}, "02:00:01 of time asked, 02:00:00 allowed"),
    ],
)
def test_what_exceeds_the_limits_of_its_rule_is_refused_with_the_rule(
    asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(NoFit) as told:
        placed(**asked)
    assert words in told.value.line()
    assert "site hpc, rule students" in told.value.line()
    assert placed("local_submit", **asked)


def test_a_rule_without_gpus_takes_requests_without_any() -> None:
    assert placed("rmq_cpu_1").partition == "gpu"
    with pytest.raises(NoFit, match="no GPUs"):
        placed("rmq_cpu_1", gpus=1)


def test_a_rule_never_lengthens_and_the_sites_default_time_yields_to_it() -> None:
    assert placed().time_limit == 2 * 3600
    assert placed("local_submit").time_limit == 8 * 3600
    assert placed(max_duration=60.0).time_limit == 60 + 600


def test_a_rule_holds_where_the_site_names_no_partitions() -> None:
    site = Site.model_validate({"rules": [{"name": "all", "max_cpus": 2, "account": "a"}]})
    spec = place(Resources(cpus=2), site, rule=site.rules[0])
    assert (spec.partition, spec.account) == ("", "a")
    with pytest.raises(NoFit, match="3 CPUs asked, 2 allowed"):
        place(Resources(cpus=3), site, rule=site.rules[0])


def test_an_owner_too_long_to_be_one_fits_no_pattern() -> None:
    site = Site.model_validate({"rules": [{"name": "named", "owners": "."}]})
    assert rule_for(site.rules, queue="q", owner="a" * 256, signed=False)
    with pytest.raises(RuledOut) as told:
        rule_for(site.rules, queue="q", owner="a" * 4000, signed=False)
    assert len(told.value.line()) < 500


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"name": "a"}, {"name": "a"}], "'a' stands twice"),
        ([{"name": "a", "partitions": ["cpu", "gone"]}], "'gone' is none of the site's partitions"),
        ([{"name": "a", "queues": "("}], ""),
        ([{"queues": "x"}], ""),
        ([{"name": "a", "max_job": 3}], ""),
        ([{"name": "a", "directives": ["--account=x"]}], "use the key account"),
    ],
)
def test_a_mistake_in_a_rule_is_told(rules: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError) as told:
        Site.model_validate({"partitions": [{"name": "cpu"}], "rules": rules})
    assert words in str(told.value.errors())


def test_weights_go_by_the_first_pattern_that_fits() -> None:
    site = Site.model_validate(
        {"queue_weights": [{"queues": "^rmq_a", "weight": 5}, {"queues": "rmq_", "weight": 2}]}
    )
    assert [weight_of(site.queue_weights, q) for q in ("rmq_ab", "rmq_b", "local_a")] == [5, 2, 1]


def test_only_queues_that_a_capped_rule_can_fit_are_ever_held_back() -> None:
    assert may_be_capped(SITE.rules, "rmq_students_1")
    assert not may_be_capped(SITE.rules, "rmq_vip_1")
    everyone = Site.model_validate({"rules": [{"name": "all", "max_jobs": 3}]})
    assert may_be_capped(everyone.rules, "anything")
