"""What sbatch and slurm-drmaa say, and what it means. Texts of Slurm 22.05.8 unless said."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.batch.batch import Batch
from hpcrunner.schedulers import sbatch
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SubmitRefused, SubmitUncertain
from hpcrunner.schedulers.refusals import in_words

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

NEVER = [
    f"sbatch: error: invalid partition specified: nope\n{FAILED}Invalid partition name specified",
    f"{FAILED}Invalid account or account/partition combination specified",
    f"{FAILED}Invalid qos specification",
    "sbatch: error: Invalid generic resource (gres) specification",
    f"{FAILED}Invalid Trackable RESource (TRES) specification",
    f"{FAILED}Requested node configuration is not available",
    "sbatch: error: Memory specification can not be satisfied\n"
    f"{FAILED}Requested node configuration is not available",
    f"{FAILED}Invalid job array specification",
    "sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information",
    "sbatch: error: Invalid --time specification",
    f"{FAILED}Invalid feature specification",
    f"{FAILED}Invalid license specification",
    f"{FAILED}Invalid node name specified",
    f"{FAILED}Requested reservation is invalid",
    f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
    f"{FAILED}User's group not permitted to use this partition",
    f"{FAILED}Access/permission denied",
    "sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.",
    "sbatch: error: This does not look like a batch script.  The first",
    "sbatch: error: Batch script is empty!",
    f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}{POLICY}",
    f"sbatch: error: AssocMaxCpuPerJobLimit\n{FAILED}{POLICY}",
    f"sbatch: error: QOSMaxGRESPerJob\n{FAILED}{POLICY}",
    f"sbatch: error: QOSMinGRES limit\n{FAILED}{POLICY}",
    f"sbatch: error: Your project has no hours left.\n{FAILED}Unspecified error",
]
NOT_NOW = [
    f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}{POLICY}",
    f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}{POLICY}",
    f"sbatch: error: AssocGrpSubmitJobsLimit\n{FAILED}{POLICY}",
    f"{FAILED}{POLICY}",
    f"{FAILED}Unable to contact slurm controller (connect failure)",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
    f"{FAILED}Resource temporarily unavailable",
    f"{FAILED}Required partition not available (inactive or drain)",
    "sbatch: error: Munge encode failed: Failed to access socket",
    "sbatch: error: s_p_parse_file: cannot stat file /etc/slurm/slurm.conf\n"
    "sbatch: fatal: Unable to process configuration file",
    "sbatch: error: Unable to open file /nonexistent/script",
]
UNCERTAIN = [
    f"{FAILED}Socket timed out on send/recv operation",
    f"{FAILED}Unable to contact slurm controller (receive failure)",
    f"{FAILED}Unable to contact slurm controller (send failure)",
    f"{FAILED}Zero Bytes were transmitted or received",
    f"{FAILED}Unexpected message received",
    f"{FAILED}Something that nobody has met yet",
    # A pause because the controller was busy, and then silence: the doubt wins.
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
    f"{FAILED}Socket timed out on send/recv operation",
    "",
]


@pytest.mark.parametrize("stderr", NEVER)
def test_a_refusal_that_stays_is_refused_for_good(stderr: str) -> None:
    with pytest.raises(SubmitRefused) as refused:
        sbatch.parse(Completed("", stderr, 1))
    assert not refused.value.passing


@pytest.mark.parametrize("stderr", NOT_NOW)
def test_a_refusal_that_passes_is_tried_again(stderr: str) -> None:
    with pytest.raises(SubmitRefused) as refused:
        sbatch.parse(Completed("", stderr, 1))
    assert refused.value.passing


@pytest.mark.parametrize("stderr", UNCERTAIN)
def test_whatever_leaves_a_doubt_is_looked_up_first(stderr: str) -> None:
    with pytest.raises(SubmitUncertain):
        sbatch.parse(Completed("", stderr, 1))


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("1721\n", "1721"),
        ("1721;hpcdev\n", "1721"),
        ("*** Welcome to Hpc2 ***\nprojects: 3\n\n1721\n", "1721"),
    ],
)
def test_the_last_line_is_the_job_id(stdout: str, job_id: str) -> None:
    assert sbatch.parse(Completed(stdout, "sbatch: a note", 0)) == job_id


@pytest.mark.parametrize(
    "completed",
    [
        Completed("", "", 0),
        Completed("Submitted batch job 17 on cluster c3\n", "", 0),
        Completed("17\nbye from the filter\n", "", 0),
        Completed("17 18\n", "", 0),
        # An id, and yet a failure: a plugin may fail after the job was taken.
        Completed("1721\n", f"{FAILED}Access/permission denied", 1),
    ],
)
def test_an_answer_of_another_form_is_looked_up_not_guessed(completed: Completed) -> None:
    with pytest.raises(SubmitUncertain):
        sbatch.parse(completed)


def test_a_refusal_says_each_thing_once_and_without_name_tags() -> None:
    assert (
        in_words(NEVER[0]) == "invalid partition specified: nope; Invalid partition name specified"
    )


def test_login_limits_stay_on_the_login_node_and_the_script_comes_last(
    make_batch: Callable[..., Batch],
) -> None:
    batch = make_batch()
    argv = sbatch.argv(batch, ["--partition=cpu"])
    assert "--propagate=NONE" in argv
    assert "--parsable" in argv
    assert argv[-1] == str(batch.script)


@given(st.text(), st.text(), st.integers(-1, 3))
def test_any_answer_is_an_id_a_refusal_or_a_doubt(stdout: str, stderr: str, code: int) -> None:
    with contextlib.suppress(SubmitRefused, SubmitUncertain):
        assert sbatch.parse(Completed(stdout, stderr, code)).isdecimal()
