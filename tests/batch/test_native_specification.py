"""What sbatch and DRMAA are told, and the traps of slurm-drmaa's native specification."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import (
    NativeRefused,
    directives,
    native_specification,
    output_pattern,
    remote_command,
    sbatch_lines,
    sbatch_words,
    slurm_time,
)
from hpcrunner.batch.words import WordRefused
from hpcrunner.sites.directives import DRMAA_FLAGS, DRMAA_VALUES, drmaa_refuses
from hpcrunner.sites.site import Site

MakeBatch = Callable[..., Batch]
MakeSite = Callable[..., Site]
MIB = 1024**2


def native(batch: Batch, site: Site) -> list[str]:
    return native_specification(batch, site).split(" ")


def test_both_dialects_say_the_same(batch: MakeBatch, site: MakeSite) -> None:
    full = batch(
        partition="gpu",
        account="lab",
        qos="high",
        cpus=8,
        memory=3 * MIB,
        tmp=5 * MIB,
        time_limit=3600,
        gpus=2,
        gpu_type="a100",
        requeue=True,
        directives=("--constraint=a&b",),
    )
    shared = [str(directive) for directive in directives(full, site())]
    assert set(shared) < set(sbatch_words(full, site()))
    told = {
        word.replace("--job_name=", "--job-name=").replace("--gres=gres:", "--gres=")
        for word in native(full, site())
    }
    assert told == set(shared)


def test_a_native_word_is_a_long_option_with_one_equals_sign(
    batch: MakeBatch, site: MakeSite
) -> None:
    shape = batch(partition="p", memory=MIB, time_limit=60, gpus=1, gpu_type="t")
    for word in native(shape, site()):
        assert re.fullmatch(r"--[a-z][a-z_-]*(=[^\s=\"']+)?", word), word


def test_the_job_name_has_slurm_drmaas_own_spelling(batch: MakeBatch, site: MakeSite) -> None:
    assert "--job_name=hpcr-0123456789ab" in native(batch(), site())
    assert "--job-name=hpcr-0123456789ab" in sbatch_words(batch(), site())


def test_what_drmaa_cannot_carry_is_not_in_the_native_specification(
    batch: MakeBatch, site: MakeSite
) -> None:
    names = {word.split("=")[0] for word in native(batch(size=3), site())}
    assert not names & {"--export", "--chdir", "--array", "--output", "--open-mode", "--signal"}


@pytest.mark.parametrize(("grace", "seconds"), [(30.0, 30), (0.2, 1), (90000.0, 65535)])
def test_sbatch_has_the_limit_announced_to_the_batch_script_alone_the_sites_grace_ahead(
    batch: MakeBatch, site: MakeSite, grace: float, seconds: int
) -> None:
    # Also without a time of its own: the job then has the partition's, which no plan knows.
    for shape in (batch(), batch(time_limit=3600)):
        assert f"--signal=B:USR1@{seconds}" in sbatch_words(shape, site(grace=grace))


@pytest.mark.parametrize(
    ("prefix", "gpu_type", "word"),
    [
        ("gres:", "a100", "--gres=gres:gpu:a100:2"),
        ("gres/", "a100", "--gres=gres/gpu:a100:2"),
        ("", "a100", "--gres=gpu:a100:2"),
        ("gres:", "", "--gres=gres:gpu:2"),
    ],
)
@pytest.mark.parametrize("syntax", ["gres", "gpus-per-node", "gpus"])
def test_gpus_go_through_drmaa_as_prefixed_gres_whatever_the_sites_syntax(
    batch: MakeBatch, site: MakeSite, syntax: str, prefix: str, gpu_type: str, word: str
) -> None:
    here = site(gpu_syntax=syntax, drmaa={"gres_prefix": prefix})
    gpu_words = [w for w in native(batch(gpus=2, gpu_type=gpu_type), here) if "g" in w[2]]
    assert gpu_words == [word]


@pytest.mark.parametrize(
    ("syntax", "gpu_type", "word"),
    [
        ("gres", "a100", "--gres=gpu:a100:2"),
        ("gres", "", "--gres=gpu:2"),
        ("gpus-per-node", "a100", "--gpus-per-node=a100:2"),
        ("gpus", "", "--gpus=2"),
    ],
)
def test_gpus_go_to_sbatch_in_the_sites_syntax(
    batch: MakeBatch, site: MakeSite, syntax: str, gpu_type: str, word: str
) -> None:
    assert word in sbatch_words(batch(gpus=2, gpu_type=gpu_type), site(gpu_syntax=syntax))


def test_nothing_is_said_of_what_is_not_asked_for(batch: MakeBatch, site: MakeSite) -> None:
    names = {directive.name for directive in directives(batch(), site())}
    assert names == {"job-name", "comment", "nodes", "ntasks", "cpus-per-task", "no-requeue"}


@pytest.mark.parametrize(
    ("syntax", "cpus", "memory", "word"),
    [
        ("mem", 4, 1000 * MIB, "--mem=1000"),
        ("mem", 1, 1000 * MIB + 1, "--mem=1001"),
        ("mem-per-cpu", 4, 1000 * MIB, "--mem-per-cpu=250"),
        ("mem-per-cpu", 3, 1000 * MIB, "--mem-per-cpu=334"),
        ("none", 4, 1000 * MIB, None),
    ],
)
def test_memory_is_whole_megabytes_in_the_sites_syntax(
    batch: MakeBatch, site: MakeSite, syntax: str, cpus: int, memory: int, word: str | None
) -> None:
    shape = batch(cpus=cpus, memory=memory)
    for words in (
        sbatch_words(shape, site(memory_syntax=syntax)),
        native(shape, site(memory_syntax=syntax)),
    ):
        assert [w for w in words if w.startswith("--mem")] == ([word] if word else [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "00:01:00"),
        (60, "00:01:00"),
        (61, "00:02:00"),
        (3600, "01:00:00"),
        (86400, "24:00:00"),
        (30 * 86400, "720:00:00"),
    ],
)
def test_time_is_hours_without_days_and_never_less_than_asked(seconds: int, text: str) -> None:
    assert slurm_time(seconds) == text


@pytest.mark.parametrize(
    "word",
    [
        "--nice=5",
        "--mail-type=END",
        "--mail-user=me@example.org",
        "--exclusive=user",
        "--oversubscribe",
        "--constraint",
        "--bb=capacity=1G",
        "--licenses=a=b",
        "--constraint=a b",
    ],
)
def test_a_directive_that_slurm_drmaa_would_refuse_cut_or_drop_is_named(
    batch: MakeBatch, site: MakeSite, word: str
) -> None:
    assert len(drmaa_refuses([word])) == 1
    here = site(directives=[word])
    with pytest.raises(NativeRefused, match="site here, key directives: --") as caught:
        native_specification(batch(directives=here.directives), here)
    assert "\n" not in caught.value.line()
    assert word in sbatch_words(batch(directives=here.directives), here)


def test_a_directive_that_slurm_drmaa_knows_passes() -> None:
    values = [f"--{name}=x" for name in DRMAA_VALUES]
    flags = [f"--{name}" for name in DRMAA_FLAGS]
    assert drmaa_refuses(values + flags) == ()


def test_a_batch_of_one_is_no_array(batch: MakeBatch, site: MakeSite) -> None:
    one, many = sbatch_words(batch(), site()), sbatch_words(batch(size=7), site())
    assert not any(word.startswith("--array") for word in one)
    assert "--array=1-7" in many
    assert output_pattern(batch()).endswith("/logs/1.out")
    assert output_pattern(batch(size=7)).endswith("/logs/%a.out")


def test_a_percent_sign_in_the_path_is_no_replacement_symbol(batch: MakeBatch) -> None:
    assert output_pattern(batch(size=2, folder=Path("/a%j/b"))) == "/a%%j/b/logs/%a.out"


WEIRD = Path("/we\"ird 'dir; $(touch pwned) %a #x é&/b")


def test_header_lines_quote_for_sbatchs_own_reader(batch: MakeBatch, site: MakeSite) -> None:
    shape = batch(folder=WEIRD)
    lines = sbatch_lines(shape, site())
    assert all(line.startswith(("#SBATCH --", "#SBATCH '--")) for line in lines)
    words = [shlex.split(line.removeprefix("#SBATCH "), posix=True) for line in lines]
    assert words == [[word] for word in sbatch_words(shape, site())]
    assert not any("\\" in line for line in lines)


def test_a_line_break_cannot_enter_the_header(batch: MakeBatch, site: MakeSite) -> None:
    with pytest.raises(WordRefused, match="--output: control characters or line breaks"):
        sbatch_lines(batch(folder=Path("/a\n#SBATCH --uid=0")), site())


def test_the_remote_command_is_bash_that_replaces_its_shell(batch: MakeBatch) -> None:
    assert shlex.split(remote_command(batch(folder=WEIRD))) == ["exec", str(WEIRD / "script")]


@pytest.mark.parametrize("export", ["NONE", "NIL", "ALL"])
def test_the_export_mode_is_the_sites(batch: MakeBatch, site: MakeSite, export: str) -> None:
    assert f"--export={export}" in sbatch_words(batch(), site(export=export))


def test_where_whole_nodes_are_given_no_option_asks_for_gpus(
    batch: MakeBatch, site: MakeSite
) -> None:
    whole = site(gpu_syntax="none")
    assert sbatch_words(batch(gpus=2, gpu_type="h100"), whole) == sbatch_words(batch(), whole)
    assert native(batch(gpus=2), whole) == native(batch(), whole)
