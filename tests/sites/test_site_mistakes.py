"""A mistake in a site file is one line: file, dotted key, line, what was got, what is allowed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcrunner.sites.directives import FORBIDDEN
from hpcrunner.sites.load import load_site, read_site, with_spool
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site

Problems = Callable[[str], list[str]]


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """The problems of a site file's text, without the file's name."""
    path = tmp_path / "here.yaml"

    def of(text: str) -> list[str]:
        path.write_text(text)
        with pytest.raises(SiteError) as caught:
            read_site(path)
        assert caught.value.exit_code == 78
        assert caught.value.line().splitlines() == list(caught.value.problems)
        assert all(problem.startswith(str(path)) for problem in caught.value.problems)
        return [p.removeprefix(str(path)).removeprefix(": ") for p in caught.value.problems]

    return of


def test_an_unknown_key_names_the_nearest_known_one(problems: Problems) -> None:
    (line,) = problems("spol: /x\n")
    assert line.startswith("spol (line 1): unknown key, nearest: spool; allowed: name, ")


def test_an_unknown_key_inside_a_list_names_the_keys_of_that_list(problems: Problems) -> None:
    (line,) = problems("partitions:\n  - name: a\n    maxtime: 1-0\n")
    assert line == (
        "partitions[0].maxtime (line 3): unknown key, nearest: max_time; allowed: name, max_time, "
        "max_cpus, max_memory, gpus, gpus_only, account, qos, directives"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "scheduler: slurm",
            "scheduler (line 1): got 'slurm'; "
            "allowed: auto, drmaa, sbatch, pyslurm, gridengine, local",
        ),
        ("export: all", "export (line 1): got 'all'; allowed: NONE, NIL, ALL"),
        ("tmp: maybe", "tmp (line 1): got 'maybe'; allowed: true, false"),
        ("grace: -1", "grace (line 1): got '-1'; allowed: a number of seconds from 0"),
        ("grace: inf", "grace (line 1): got 'inf'; allowed: a number of seconds from 0"),
        (
            "retention: {ended: 30}",  # days, or seconds?
            "retention.ended (line 1): got '30'; allowed: an age: 30d, 12h, 90m, 0; UNLIMITED "
            "keeps for ever",
        ),
        (
            "retention: {environments: 1h}",
            "retention.environments (line 1): got '1h' (less than a day); allowed: an age from "
            "1d: 30d, 2w; UNLIMITED keeps for ever",
        ),
        ("grace: 1m", "grace (line 1): got '1m'; allowed: a number of seconds from 0"),
        (
            "polling: {floor: 0}",
            "polling.floor (line 1): got '0'; allowed: a number of seconds from 0.05",
        ),
        (
            "limits: {max_jobs: 0}",
            "limits.max_jobs (line 1): got '0'; allowed: a whole number from 1",
        ),
        (
            "limits: {max_array_size: 1}",
            "limits.max_array_size (line 1): got '1'; allowed: a whole number from 2",
        ),
        (
            "limits: {submit_rate: 10 per second}",
            "limits.submit_rate (line 1): got '10 per second'; "
            "allowed: count/time: 10/1s, 60/1m, 500/h",
        ),
        (
            "defaults: {memory: 64GB}",
            "defaults.memory (line 1): got '64GB'; allowed: a size in Slurm's binary units: 512M, "
            "64G, 1T; a bare number is MiB",
        ),
        (
            "defaults:\n  time_limit: 2h",
            "defaults.time_limit (line 2): got '2h'; allowed: a Slurm time: 30 (minutes), "
            "45:00 (minutes:seconds), 02:00:00, 1-12, 1-12:00:00 or UNLIMITED",
        ),
        (
            "staging_allowance: UNLIMITED",
            "staging_allowance (line 1): got 'UNLIMITED'; allowed: a Slurm time: 10 (minutes), "
            "00:10:00",
        ),
        (
            "account: my account",
            "account (line 1): got 'my account'; "
            "allowed: a name of letters, digits and . _ + @ , -",
        ),
        (
            "partitions:\n  - name: a\n    gpus:\n      - {type: 'a:b', memory: 1G, count: 1}",
            "partitions[0].gpus[0].type (line 4): got 'a:b'; "
            "allowed: the type's name in gres.conf, of letters, digits and . _ + -; "
            "empty for untyped GPUs",
        ),
        (
            "partitions:\n  - name: a\n    gpus:\n      - {count: 1}",
            "partitions[0].gpus[0].memory (line 4): missing; allowed: a size in Slurm's binary "
            "units: 512M, 64G, 1T; a bare number is MiB",
        ),
        (
            "partitions: gpu",
            "partitions (line 1): got 'gpu'; allowed: a list; each item: a mapping with the keys "
            "name, max_time, max_cpus, max_memory, gpus, gpus_only, account, qos, directives",
        ),
        (
            "polling: fast",
            "polling (line 1): got 'fast'; allowed: a mapping with the keys floor, ceiling",
        ),
        (
            "modules: cuda",
            "modules (line 1): got 'cuda'; allowed: a list; each item: one line of text",
        ),
        (
            'modules: ["a\\nb"]',
            "modules[0] (line 1): got 'a\\nb' (control characters or line breaks); "
            "allowed: one line of text",
        ),
        (
            "environment: {A-B: x}",
            "environment.A-B (line 1): got the key 'A-B'; "
            "allowed: a variable's name of letters, digits and _",
        ),
        (
            "interpreters:\n  3: /usr/bin/python3",
            "interpreters.3 (line 2): got the key '3'; allowed: major.minor, as 3.11",
        ),
        (
            "interpreters: {3.11: bin/python}",
            "interpreters.3.11 (line 1): got 'bin/python' (neither a name nor an absolute path); "
            "allowed: an absolute path or a command's name; ~ is expanded when the file is read",
        ),
        (
            "scratch: tmp",
            "scratch (line 1): got 'tmp' (a relative path); allowed: an absolute path; ~ is "
            "expanded when the file is read, $NAME on the node",
        ),
        (
            "drmaa: {gres_prefix: gpu}",
            "drmaa.gres_prefix (line 1): got 'gpu'; allowed: gres:, gres/, \"\"",
        ),
    ],
)
def test_a_wrong_value_says_what_is_allowed(problems: Problems, text: str, line: str) -> None:
    assert problems(text) == [line]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("spool", "not a usable path"),
        ("$HPCRUNNER_NOT_SET/x", "a variable that is not set here"),
        ('"/a\\\\b"', "not a usable path"),
        ('"/a\\nb"', "control characters or line breaks"),
    ],
)
def test_a_spool_that_no_script_could_name_is_refused(
    problems: Problems, value: str, why: str
) -> None:
    (line,) = problems(f"spool: {value}\n")
    assert f"({why}); allowed: an absolute path without backslashes" in line


def test_the_command_lines_spool_is_judged_like_the_files() -> None:
    with pytest.raises(SiteError, match="site site: spool: got 'relative' "):
        with_spool(Site(), "relative")
    assert with_spool(Site(qos="high"), "/s").qos == "high"


@pytest.mark.parametrize("option", sorted(FORBIDDEN))
def test_a_directive_that_hpcrunner_sets_itself_is_refused_with_the_reason(
    problems: Problems, option: str
) -> None:
    (line,) = problems(f"directives: ['--{option}=x']\n")
    assert line.startswith(f"directives[0] (line 1): got '--{option}=x' (--{option}: ")
    assert FORBIDDEN[option] in line


@pytest.mark.parametrize("word", ["--outp=x", "--j=x", "--exp=ALL", "--no-req", "--me=1"])
def test_the_abbreviation_of_a_forbidden_option_is_refused_too(
    problems: Problems, word: str
) -> None:
    assert "hpcrunner does not set itself" in problems(f"directives: ['{word}']\n")[0]


@pytest.mark.parametrize("word", ["-p", "-p gpu", "partition=x", "--", "--Big=1", "--a=", "--a b"])
def test_a_directive_that_is_no_long_option_is_refused(problems: Problems, word: str) -> None:
    assert "(not a long option (--name or --name=value)" in problems(f"directives: ['{word}']")[0]


def test_a_directive_with_quotes_is_refused(problems: Problems) -> None:
    for value in ('a"b', "a`b", "a\\\\b", "a\\x01b", "a'b"):
        escaped = value.replace('"', '\\"')
        assert "cannot be carried" in problems(f'directives: ["--constraint={escaped}"]\n')[0]


def test_all_mistakes_are_reported_in_the_order_of_the_file(problems: Problems) -> None:
    lines = problems("grace: x\npartitions:\n  - nmae: a\nexport: y\n")
    assert [line.split(" (")[0] for line in lines] == [
        "grace",
        "partitions[0].name",
        "partitions[0].nmae",
        "export",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "polling:\n  floor: 10\n  ceiling: 5",
            "polling.ceiling (line 3): less than polling.floor",
        ),
        (
            "scheduler: local\npartitions:\n  - name: a",
            "partitions (line 2): the local scheduler has none; use the key local",
        ),
        (
            "partitions: [{name: a, max_time: 60}]\ndefaults: {time_limit: 61}",
            "defaults.time_limit (line 2): longer than every partition's max_time",
        ),
        (
            "partitions:\n  - name: a\n    gpus_only: true",
            "partitions[0].gpus_only (line 3): true for a partition without gpus",
        ),
        (
            "partitions:\n  - name: a\n    gpus:\n      - {type: x, memory: 1G, count: 1}\n"
            "      - {type: x, memory: 2G, count: 1}",
            "partitions[0].gpus[1].type (line 5): 'x' stands twice in this partition",
        ),
        (
            "scheduler: drmaa\ndirectives: [--nice=5]",
            "directives[0] (line 2): --nice=5: slurm-drmaa has no such option; "
            "allowed with scheduler: sbatch",
        ),
        (
            "scheduler: drmaa\npartitions:\n  - name: a\n    directives: [--exclusive=user]",
            "partitions[0].directives[0] (line 4): --exclusive=user: slurm-drmaa drops the value "
            "of this flag silently; allowed with scheduler: sbatch",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    problems: Problems, text: str, line: str
) -> None:
    assert problems(text) == [line]


def test_yaml_mistakes_are_one_line_with_the_files_line(problems: Problems) -> None:
    assert problems("name: a\nname: b\n") == [" (line 2): key 'name' stands twice"]
    (line,) = problems("name: [a\nspool: x\n")
    assert line.startswith(" (line 2): ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(SiteError, match=r"missing\.yaml: cannot be read \(No such file"):
        load_site(missing)
    missing.write_bytes(b"name: \xff\n")
    with pytest.raises(SiteError, match=r"not UTF-8 text \(byte 6\)"):
        load_site(str(missing))


def test_a_file_far_larger_than_any_site_is_not_read_through() -> None:
    with pytest.raises(SiteError, match="/dev/zero: more than 1000000 characters: is it a site"):
        load_site("/dev/zero")


def test_a_long_value_is_shortened_in_the_line(problems: Problems) -> None:
    (line,) = problems(f"scheduler: {'x' * 500}\n")
    assert len(line) < 200
