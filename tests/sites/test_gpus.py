"""What a request's numbers of GPUs mean on a site, and which GPUs are chosen: by least waste."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.request.model import Resources
from hpcrunner.sites.gpus import (
    Gpu,
    GpuAsk,
    GpusUnclear,
    joined_constraint,
    read_ask,
    well_known_slots,
)
from hpcrunner.sites.load import load_site
from hpcrunner.sites.placement import NoFit, place
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

GIB = 1024**3
K80 = {"type": "k80", "memory": "12G", "count": 8}
P40 = {"type": "p40", "memory": "24G", "count": 4}
V100 = {"type": "v100", "memory": "32G", "count": 4}
A100 = {"type": "a100", "memory": "40G", "count": 4}
H100 = {"type": "h100", "memory": "80G", "count": 8}


def site(*gpus: dict[str, Any], partitions: Any = None, **keys: Any) -> Site:
    given = partitions or [{"name": "gpu", "gpus": list(gpus)}]
    return Site.model_validate({"name": "here", "partitions": given, **keys})


def asked(gpus: int = 0, count: int = 0, memory: int = 0, type: str = "") -> Resources:
    return Resources(gpus=gpus, gpu_count=count, gpu_memory=memory, gpu_type=type)


def shape(spec: JobSpec) -> tuple[str, str, int]:
    return spec.partition, spec.gpu_type, spec.gpus


@pytest.mark.parametrize(
    ("meaning", "gpus", "count", "ask"),
    [
        ("cards", 0, 0, GpuAsk()),
        ("cards", 2, 0, GpuAsk(cards=2)),
        ("cards", 0, 2, GpuAsk(cards=2)),
        ("cards", 1, 16, GpuAsk(cards=1)),  # today's Go runner: slots of that card
        ("slots", 0, 0, GpuAsk()),
        ("slots", 4, 0, GpuAsk(slots=4)),
        ("slots-and-cards", 0, 0, GpuAsk()),
        ("slots-and-cards", 8, 2, GpuAsk(cards=2, slots=8)),
        ("slots-and-cards", 8, 0, GpuAsk(cards=1, slots=8)),
        ("slots-and-cards", 0, 2, GpuAsk(cards=2)),
        ("cards-and-slots", 0, 0, GpuAsk()),
        ("cards-and-slots", 2, 8, GpuAsk(cards=2, slots=8, exact=True)),
        ("cards-and-slots", 2, 0, GpuAsk(cards=2)),
    ],
)
def test_the_three_historic_meanings_and_the_usual_one(
    meaning: str, gpus: int, count: int, ask: GpuAsk
) -> None:
    assert read_ask(asked(gpus, count), meaning) == ask


def test_memory_alone_asks_for_a_gpu_only_where_gpus_counts_slots() -> None:
    for meaning in ("cards", "slots-and-cards", "cards-and-slots"):
        assert not read_ask(asked(memory=8 * GIB), meaning).wanted
    assert read_ask(asked(memory=8 * GIB), "slots") == GpuAsk(cards=1, memory=8 * GIB)


@pytest.mark.parametrize(
    ("meaning", "resources", "line"),
    [
        ("slots", asked(2, 2), "gpuCount is 2, and gpus counts slots here"),
        ("cards-and-slots", asked(0, 8), "gpuCount asks for 8 slots of each card, and gpus for no"),
        ("cards", asked(type="a100"), "gpuType is 'a100' and no GPU is asked for"),
    ],
)
def test_numbers_that_contradict_each_other_are_told_in_one_line(
    meaning: str, resources: Resources, line: str
) -> None:
    with pytest.raises(GpusUnclear) as caught:
        place(resources, site(V100, gpus={"meaning": meaning}))
    text = caught.value.line()
    assert text.startswith(f"experiment.resources_needed: {line}")
    assert "gpus.meaning" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        *[
            (name, 2)
            for name in ("gtx1080ti", "GTX_1060", "titanx", "TITAN-Xp", "rtx2080ti", "k80")
        ],
        *[("tesla_p40", 4), ("p100", 8), ("v100s", 16), ("v100-32gb", 16)],
        *[("a100", 24), ("nvidia_a100-sxm4-40gb", 24)],
        # Others, and what only looks like one of them; a part of a card is none.
        *[(name, 0) for name in ("", "h100", "rtx2080", "p4000", "p1000", "a1000", "mi250")],
        *[(name, 0) for name in ("a100_3g.20gb", "nvidia_a100_1g.5gb")],
    ],
)
def test_cards_have_the_slots_that_runners_have_always_given_them(name: str, slots: int) -> None:
    assert well_known_slots(name) == slots


@pytest.mark.parametrize(
    ("meaning", "gpus", "count", "chosen"),
    [
        # slots of all cards together: least waste first, then fewest cards
        ("slots", 2, 0, ("k80", 1)),
        ("slots", 3, 0, ("p40", 1)),  # two k80 waste as much, with more cards
        ("slots", 4, 0, ("p40", 1)),
        ("slots", 6, 0, ("k80", 3)),
        ("slots", 16, 0, ("v100", 1)),
        ("slots", 48, 0, ("a100", 2)),
        # slots of each card, at least
        ("slots-and-cards", 3, 2, ("p40", 2)),
        ("slots-and-cards", 17, 1, ("a100", 1)),
        ("slots-and-cards", 0, 8, ("k80", 8)),
        # slots of each card, exactly
        ("cards-and-slots", 1, 24, ("a100", 1)),
        ("cards-and-slots", 3, 16, ("v100", 3)),
        ("cards-and-slots", 1, 0, ("k80", 1)),
    ],
)
def test_slots_choose_the_card(
    meaning: str, gpus: int, count: int, chosen: tuple[str, int]
) -> None:
    here = site(H100, A100, V100, P40, K80, gpus={"meaning": meaning})
    spec = place(asked(gpus, count), here)
    assert (spec.gpu_type, spec.gpus) == chosen


@pytest.mark.parametrize(
    ("meaning", "resources", "line"),
    [
        ("slots", asked(100), "100 slots asked, a100 has 4 GPUs of 24"),
        ("slots", asked(1), "1 slots asked, h100 has no number of slots in the site file"),
        ("cards-and-slots", asked(1, 7), "7 slots of each GPU asked, a100 has 24"),
        ("slots-and-cards", asked(25, 1), "25 slots of each GPU asked, a100 has 24"),
        ("slots-and-cards", asked(1, 5), "5 GPUs asked, a100 has 4"),
        ("cards", asked(9), "9 GPUs asked, h100 has 8"),
        ("cards", asked(1, memory=90 * GIB), "90 GiB of GPU memory asked, h100 has 80 GiB"),
        ("cards", asked(1, type="b200"), "GPUs of type 'b200' asked, there are h100, a100"),
    ],
)
def test_who_asks_for_what_nobody_has_is_told_what_there_is(
    meaning: str, resources: Resources, line: str
) -> None:
    here = site(*([H100] if line.startswith("1 ") else [H100, A100]), gpus={"meaning": meaning})
    with pytest.raises(NoFit) as caught:
        place(resources, here)
    text = caught.value.line()
    assert line in text
    assert "\n" not in text
    assert ("gpuMem is the memory of each GPU" in text) is bool(resources.gpu_memory)


def test_the_site_says_what_its_own_types_count() -> None:
    mine = {**H100, "slots": 40}
    assert place(asked(30), site(A100, mine, gpus={"meaning": "slots"})).gpu_type == "h100"
    never = {**A100, "slots": 0}
    assert place(asked(20), site(never, mine, gpus={"meaning": "slots"})).gpu_type == "h100"
    # Its type tells, whatever people call it; without a type the name does.
    named = [{**A100, "name": "fast"}, {"name": "v100", "memory": "32G", "count": 1}]
    assert [Gpu.model_validate(gpu).slot_count for gpu in named] == [24, 16]
    half = {**A100, "type": "a100_3g.20gb", "name": "half-a100"}
    assert Gpu.model_validate(half).slot_count == 0


def test_a_type_is_asked_for_by_the_name_that_the_site_gives_it() -> None:
    small = {**A100, "name": "a100-40g", "constraint": "gpu40"}
    large = {**A100, "name": "a100-80g", "memory": "80G", "constraint": "gpu80"}
    here = site(small, large, V100)
    assert shape(place(asked(1, type="v100"), here)) == ("gpu", "v100", 1)
    spec = place(asked(2, type="a100-80g"), here)
    assert shape(spec) == ("gpu", "a100", 2)
    assert spec.directives == ("--constraint=gpu80",)


PARTITIONS = [
    {"name": "big", "gpus": [H100], "max_time": "2-00:00:00"},
    {"name": "mixed", "gpus": [A100, V100], "max_time": "08:00:00"},
    {"name": "old", "gpus": [V100, K80], "max_time": "1-00:00:00"},
]


@pytest.mark.parametrize(
    ("resources", "hours", "by_waste", "by_order"),
    [
        (asked(1), 1, ("old", "k80"), ("big", "h100")),
        (asked(1, memory=16 * GIB), 1, ("mixed", "v100"), ("big", "h100")),
        (asked(1, memory=16 * GIB), 20, ("old", "v100"), ("big", "h100")),
        (asked(1, memory=36 * GIB), 1, ("mixed", "a100"), ("big", "h100")),
        (asked(1), 30, ("big", "h100"), ("big", "h100")),
        (asked(8), 1, ("old", "k80"), ("big", "h100")),
    ],
)
def test_least_waste_looks_at_all_partitions_and_file_order_at_the_first_that_fits(
    resources: Resources, hours: int, by_waste: tuple[str, str], by_order: tuple[str, str]
) -> None:
    for choice, wanted in (("least-waste", by_waste), ("file-order", by_order)):
        here = site(partitions=PARTITIONS, gpus={"choice": choice})
        assert shape(place(resources, here, max_duration=hours * 3600.0))[:2] == wanted


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["big", "mixed", "old"], "big"),  # 48 hours, which no other gives
        (["mixed", "old", "big"], "old"),  # 8 hours: 24 are no less
        (["old", "mixed", "big"], "old"),
        (["old", "endless"], "endless"),
        (["endless", "old"], "endless"),
    ],
)
def test_a_job_that_names_no_time_gets_no_less_for_the_sake_of_a_smaller_card(
    names: list[str], chosen: str
) -> None:
    endless = {"name": "endless", "gpus": [{**K80, "memory": "6G"}]}
    own = [p for name in names for p in [*PARTITIONS, endless] if p["name"] == name]
    assert place(asked(1), site(partitions=own)).partition == chosen
    # Who names a time gets what suffices.
    short = place(asked(1), site(partitions=own), max_duration=60.0)
    assert short.gpu_type == "k80"


def test_requests_without_gpus_go_by_the_files_order() -> None:
    assert place(asked(), site(partitions=PARTITIONS)).partition == "big"


@pytest.mark.parametrize(
    ("resources", "gpu_type", "gpus", "shards"),
    [
        (asked(1, memory=10 * GIB), "a100", 1, 1),
        (asked(1, memory=10 * GIB + 1), "a100", 1, 2),
        (asked(1, memory=30 * GIB), "a100", 1, 3),
        (asked(1, memory=31 * GIB), "v100", 1, 0),  # all four parts would be more than a v100
        (asked(1, memory=36 * GIB), "a100", 1, 0),
        (asked(1), "v100", 1, 0),  # who names no memory shares with nobody
        (asked(2, memory=10 * GIB), "v100", 2, 0),  # parts may lie on one card
    ],
)
def test_one_gpu_of_little_memory_is_a_part_of_a_shared_card(
    resources: Resources, gpu_type: str, gpus: int, shards: int
) -> None:
    shared = {**A100, "shards": 4, "constraint": "shared"}
    spec = place(resources, site(shared, V100))
    assert (spec.gpu_type, spec.gpus, spec.gpu_shards) == (gpu_type, gpus, shards)


def test_the_vendor_reaches_the_job_and_nobody_else_has_one() -> None:
    amd = {"type": "mi250", "memory": "64G", "count": 8, "vendor": "amd"}
    here = site(partitions=[{"name": "g", "gpus": [V100, amd]}, {"name": "c"}])
    assert place(asked(1), here).gpu_vendor == "nvidia"
    assert place(asked(8), here).gpu_vendor == "amd"
    assert place(asked(), here).gpu_vendor == ""


@pytest.mark.parametrize(
    ("directives", "constraint", "joined"),
    [
        ([], None, ()),
        (["--constraint=ib"], None, ("--constraint=ib",)),
        ([], "a100", ("--constraint=a100",)),
        (["--exclusive", "--constraint=ib"], "a100&x", ("--exclusive", "--constraint=ib&a100&x")),
        # Slurm heeds the last one, and so is it here.
        (["--constraint=ib", "--constraint=new"], "a100", ("--constraint=new&a100",)),
    ],
)
def test_a_gpus_constraint_is_joined_to_the_sites_own(
    directives: list[str], constraint: str | None, joined: tuple[str, ...]
) -> None:
    assert joined_constraint(directives, constraint) == joined


MISTAKES = [
    ([V100, V100], {}, "partitions[0].gpus[1].type: 'v100' stands twice in this partition"),
    (
        [{**A100, "name": "small"}, {**A100, "name": "large"}],
        {},
        "partitions[0].gpus[1].name: asked for in the same words as 'small'",
    ),
    (
        [{**A100, "shards": 2}, V100],
        {},
        "partitions[0].gpus[0].shards: Slurm's shards have no type: it needs a constraint",
    ),
    (
        [{**A100, "constraint": "gpu80"}],
        {"directives": ["--constraint=old|new"]},
        "partitions[0].gpus[0].constraint: cannot be joined to --constraint=old|new",
    ),
    ([{**A100, "constraint": "a b"}], {}, "allowed: names of node features, joined by &"),
    ([{**A100, "type": "a:b"}], {}, "allowed: the type's name in gres.conf"),
    ([A100], {"gpus": {"meaning": "crads"}}, "allowed: cards, slots, slots-and-cards, cards"),
    ([], {"local": {"gpus": ["0"]}}, "local.gpu_memory: missing: local.gpus needs it"),
    ([], {"local": {"gpus": ["0", "0"], "gpu_memory": "8G"}}, "local.gpus[1]: '0' stands twice"),
]


@pytest.mark.parametrize(("gpus", "keys", "line"), MISTAKES, ids=[m[2][-30:] for m in MISTAKES])
def test_a_site_whose_gpus_cannot_be_told_apart_is_refused(
    tmp_path: Path, gpus: Any, keys: Any, line: str
) -> None:
    file = tmp_path / "here.yaml"
    scheduler = "local" if "local" in keys else "sbatch"
    partitions = {"partitions": [{"name": "p", "gpus": gpus}]} if gpus else {}
    file.write_text(json.dumps({"scheduler": scheduler, **partitions, **keys}))
    with pytest.raises(SiteError) as caught:
        load_site(file)
    [problem] = caught.value.problems
    assert line in re.sub(r" \(line \d+\)", "", problem)


def test_names_of_parts_of_cards_pass_as_types() -> None:
    for name in ("a100_3g.20gb", "nvidia_a100_3g.20gb", "1g.5gb+me", "nvidia_a100-sxm4-40gb"):
        spec = place(asked(1), site({"type": name, "memory": "20G", "count": 2}))
        assert spec.gpu_type == name


def test_this_machines_gpus_are_given_by_the_local_scheduler() -> None:
    keys = {"cpus": 4, "memory": "8G", "gpus": ["0", "1"], "gpu_memory": "24G"}
    here = Site.model_validate({"scheduler": "local", "local": keys})
    spec = place(asked(2, memory=20 * GIB), here)
    assert (spec.partition, spec.gpus, spec.gpu_vendor) == ("", 2, "nvidia")
    with pytest.raises(NoFit, match="local: 3 GPUs asked, a node has 2"):
        place(asked(3), here)


gpu_lists = st.lists(
    st.builds(
        lambda name, memory, count, slots: {
            "type": f"t{name}",
            "memory": memory * GIB,
            "count": count,
            "slots": slots,
        },
        st.integers(0, 9),
        st.sampled_from([8, 12, 16, 24, 40, 80]),
        st.integers(1, 8),
        st.integers(0, 24),
    ),
    max_size=4,
    unique_by=lambda gpu: gpu["type"],
)


@given(
    lists=st.lists(gpu_lists, min_size=1, max_size=4),
    meaning=st.sampled_from(["cards", "slots", "slots-and-cards", "cards-and-slots"]),
    gpus=st.integers(1, 30),
    count=st.integers(0, 8),
    memory=st.integers(0, 90),
)
def test_no_other_choice_that_fits_wastes_less_and_of_equals_the_first_is_taken(
    lists: list[list[dict[str, Any]]], meaning: str, gpus: int, count: int, memory: int
) -> None:
    count = 0 if meaning == "slots" else count
    partitions = [{"name": f"p{index}", "gpus": own} for index, own in enumerate(lists)]
    fitting = [
        (waste, (partition["name"], gpu["type"], cards))
        for partition in partitions
        for gpu in partition["gpus"]  # type: ignore[attr-defined]
        for cards in range(1, gpu["count"] + 1)
        if (waste := _waste(meaning, gpus, count, memory * GIB, gpu, cards)) is not None
    ]
    here = site(partitions=partitions, gpus={"meaning": meaning})
    try:
        spec = place(asked(gpus, count, memory * GIB), here)
    except NoFit:
        assert not fitting
        return
    assert shape(spec) == min(fitting, key=lambda choice: choice[0])[1]


def _waste(
    meaning: str, gpus: int, count: int, memory: int, gpu: dict[str, Any], cards: int
) -> tuple[int, int, int] | None:
    """What giving so many cards of a type wastes, None where that is not what was asked for."""
    slots, extra = gpu["slots"], 0
    if meaning == "slots":
        # One card fewer would not do; more than are needed nobody gives.
        if slots * cards < gpus or slots * (cards - 1) >= gpus:
            return None
        extra = slots * cards - gpus
    elif meaning == "slots-and-cards":
        if cards != (count or 1) or slots < gpus:
            return None
        extra = (slots - gpus) * cards
    elif cards != gpus or (meaning == "cards-and-slots" and count not in (0, slots)):
        return None
    return (extra, cards, gpu["memory"] * cards) if gpu["memory"] >= memory else None
