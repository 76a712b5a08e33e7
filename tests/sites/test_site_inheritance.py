"""A site file may start from another; every mistake names the file and line where it stands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcrunner.data import data_folder
from hpcrunner.sites import folders
from hpcrunner.sites.folders import VARIABLE
from hpcrunner.sites.layers import read_layers
from hpcrunner.sites.load import load_site, read_site, site_file, site_names
from hpcrunner.sites.problems import SiteError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into a folder with ``own`` (the user's sites), ``centre`` and ``machine``."""
    for name in ("own/hpcrunner/sites", "centre", "machine"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv(VARIABLE, f"{tmp_path}/centre:{tmp_path}/absent:")
    monkeypatch.setattr(folders, "SYSTEM", tmp_path / "machine")

    def write(name: str, text: str) -> Path:
        path = tmp_path / name.replace("own/", "own/hpcrunner/sites/")
        path.write_text(text)
        return path

    return write


def problems(name_or_path: str | Path) -> list[str]:
    with pytest.raises(SiteError) as caught:
        load_site(name_or_path)
    assert caught.value.exit_code == 78
    return list(caught.value.problems)


def test_mappings_are_merged_key_by_key_and_lists_replaced(write: Write) -> None:
    write(
        "centre/big.yaml",
        "description: big\nscratch: /scratch\nmodules: [a, b]\nlimits: {max_jobs: 7, "
        "submit_rate: 5/1s}\nenvironment: {A: base, B: base}\npartitions: [{name: p}, {name: q}]\n",
    )
    write(
        "own/mine.yaml",
        "extends: big\naccount: lab\nmodules: [c]\nlimits: {max_jobs: 9}\n"
        "environment: {B: own}\npartitions: [{name: r}]\n",
    )
    site = load_site("mine")
    assert (site.name, site.description, site.account) == ("mine", "big", "lab")
    assert (site.scratch, site.modules) == ("/scratch", ("c",))
    assert (site.limits.max_jobs, str(site.limits.submit_rate)) == (9, "5/1s")
    assert site.environment == {"A": "base", "B": "own"}
    assert [partition.name for partition in site.partitions] == ["r"]


def test_a_key_without_a_value_takes_away_what_the_base_says(write: Write) -> None:
    write("centre/big.yaml", "account: lab\nenvironment: {A: x, B: y}\nlimits: {max_jobs: 7}\n")
    write("own/mine.yaml", "extends: big\naccount:\nenvironment: {A: ~}\nlimits:\n")
    site = load_site("mine")
    assert site.account is None
    assert site.environment == {"B": "y"}
    assert site.limits.max_jobs == 1000


def test_your_file_may_start_from_the_institutions_or_shipped_one_of_its_own_name(
    write: Write,
) -> None:
    write("own/local.yaml", "extends: local\ngrace: 1\n")
    write("centre/local.yaml", "extends: local\nkill_wait: 2\n")
    write("machine/local.yaml", "extends: local\nlost_after: 3\n")
    site = load_site("local")
    assert (site.grace, site.kill_wait, site.lost_after) == (1, 2, 3)
    assert (site.scheduler, site.name) == ("local", "local")
    merged = read_layers(site_file("local"))
    assert merged.files[-1] == data_folder("site-configs") / "local.yaml"
    assert len(merged.files) == 4


def test_a_file_never_starts_from_one_of_a_folder_before_its_own(write: Write) -> None:
    write("own/generic-slurm.yaml", "account: mine\n")
    write("centre/big.yaml", "extends: generic-slurm\n")
    assert load_site("generic-slurm").account == "mine"
    assert load_site("big").account is None


def test_the_search_order_is_own_variable_machine_shipped(write: Write) -> None:
    write("machine/a.yaml", "account: machine\n")
    write("machine/local.yaml", "scheduler: sbatch\n")
    assert load_site("a").account == "machine"
    assert load_site("local").scheduler == "sbatch"
    write("centre/a.yaml", "account: centre\n")
    assert load_site("a").account == "centre"
    write("own/a.yaml", "account: own\n")
    assert load_site("a").account == "own"
    assert {"a", "local", "generic-slurm"} <= set(site_names())


def test_a_path_counts_from_the_files_folder(write: Write) -> None:
    write("base.yaml", "account: lab\n")
    path = write("centre/mine.yaml", "extends: ../base.yaml\n")
    assert read_site(path).account == "lab"


def test_a_mistake_names_the_file_and_line_where_it_stands(write: Write) -> None:
    base = write("centre/big.yaml", "\n\nlimits:\n  max_jobs: none\nspol: /x\nqos: a b\n")
    own = write("own/mine.yaml", "extends: big\nqos: good\nlimits:\n  max_array_size: 1\n")
    assert [line.split(":", 2)[0] + line.split(":", 2)[1] for line in problems("mine")] == [
        f"{base} limits.max_jobs (line 4)",
        f"{base} spol (line 5)",
        f"{own} limits.max_array_size (line 4)",
    ]


def test_a_mistake_inside_a_list_is_that_files_whose_list_it_is(write: Write) -> None:
    write("centre/big.yaml", "partitions:\n  - name: a\n    gpus: [{type: x}]\n")
    own = write("own/mine.yaml", "extends: big\npartitions:\n  - name: a\n\n    max_cpus: no\n")
    (line,) = problems("mine")
    assert line.startswith(f"{own}: partitions[0].max_cpus (line 5): got 'no'")


def test_a_key_that_is_missing_in_a_list_is_missing_in_the_file_whose_list_it_is(
    write: Write,
) -> None:
    write("centre/big.yaml", "partitions:\n  - name: a\n    gpus: [{memory: 1G, count: 1}]\n")
    own = write("own/mine.yaml", "extends: big\npartitions:\n  - {name: a, gpus: [{count: 1}]}\n")
    (line,) = problems("mine")
    assert line.startswith(f"{own}: partitions[0].gpus[0].memory (line 3): missing")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("extends: bigg\n", "no site 'bigg' in .*, nearest: big; allowed: big, "),
        ("extends: ./nowhere.yaml\n", r"nowhere\.yaml: cannot be read \(No such file"),
        ("extends: [big]\n", r"got \['big'\]; allowed: the name of a site, or a path to a file"),
        ('extends: ""\n', "got ''; allowed: the name of a site"),
        ("extends: ../secret\n", "secret: cannot be read"),
        ("extends: ./mine.yaml\n", "goes in a circle: .*mine.yaml → .*mine.yaml"),
    ],
)
def test_a_bad_base_is_one_line_at_its_key(write: Write, text: str, why: str) -> None:
    write("centre/big.yaml", "")
    path = write("own/mine.yaml", f"# mine\n{text}")
    with pytest.raises(SiteError, match=why) as caught:
        load_site("mine")
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: extends (line 2): ")


def test_a_circle_is_refused_with_the_way_round(write: Write) -> None:
    a = write("own/a.yaml", "extends: b\n")
    b = write("own/b.yaml", "name: b\nextends: a\n")
    assert problems("a") == [f"{b}: extends (line 2): goes in a circle: {a} → {b} → {a}"]


def test_nine_files_in_a_row_are_too_many(write: Write) -> None:
    for number in range(9):
        write(f"own/s{number}.yaml", f"extends: s{number + 1}\n")
    write("own/s9.yaml", "")
    assert load_site("s2").name == "s2"
    (line,) = problems("s0")
    assert line.endswith(
        "s7.yaml: extends (line 1): more than 8 files, each starting from the next"
    )


def test_yaml_that_is_broken_in_a_base_names_the_base(write: Write) -> None:
    base = write("centre/big.yaml", "a: 1\na: 2\n")
    write("own/mine.yaml", "extends: big\n")
    assert problems("mine") == [f"{base} (line 2): key 'a' stands twice"]


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n", f"a: {'[' * 5000}\n"])
def test_yaml_without_an_end_is_one_line(write: Write, text: str) -> None:
    (line,) = problems(write("own/mine.yaml", text))
    assert "holds itself" in line or "nested too deep" in line


def test_a_relative_folder_in_the_variable_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "sites")
    assert problems("local") == ["HPCRUNNER_SITES: 'sites' is not an absolute path"]


def test_a_folder_that_is_named_twice_counts_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, centre = tmp_path / "own/hpcrunner/sites", tmp_path / "centre"
    monkeypatch.setenv(VARIABLE, f"{centre}:{own}:{centre}")
    write("own/big.yaml", "extends: big\nqos: own\n")
    write("centre/big.yaml", "account: lab\n")
    site = load_site("big")
    assert (site.account, site.qos) == ("lab", "own")
    assert [folder.path for folder in folders.site_folders()][:3] == [own, centre, folders.SYSTEM]
