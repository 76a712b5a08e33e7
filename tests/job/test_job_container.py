"""Payloads in containers: a real Apptainer, started by the job side."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpcrunner.batch.container import exec_words
from hpcrunner.job.container import Container as InContainer
from hpcrunner.job.container import (
    as_signal,
    failure_of,
    inside_variables,
    write_variables,
)
from hpcrunner.job.events import Events
from hpcrunner.job.payload import PayloadNotStarted, PythonHome, payload_environment
from hpcrunner.job.process import descendants
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.request.plan import ContainerSetup, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.container import Container
from hpcrunner.sites.spec import JobSpec

if TYPE_CHECKING:
    from conftest import Node

ODD = {
    "LINES": "one\ntwo\n",
    "QUOTES": 'it\'s "quoted" \\ and \\n',
    "SHELL_WORDS": "$HOME `id` $(id) ${PATH} ; & | > * ~ #",
    "WIDE": "äöü 試 \U0001f600",
    "EQUALS": "a=b=c",
    "EMPTY": "",
    "BLANKS": "  two  ",
}
LOOK = """
import json, os, sys
json.dump({
    "env": dict(os.environ), "cwd": os.getcwd(), "args": sys.argv[1:],
    "home": sorted(os.listdir(os.environ["HOME"])), "tmp": os.listdir("/tmp"),
    "secret": os.path.exists(sys.argv[1]), "passwd": open("/etc/passwd").read(),
    "data": open("/data/file").read(),
}, open("../modeldir/seen", "w"))
"""


@pytest.fixture
def contained(node: Node, containers: Any) -> Callable[..., PlannedExperiment]:
    """Wraps an experiment in one of the images, as a site's file says."""

    def wrap(experiment: PlannedExperiment, image: str = "", **keys: Any) -> PlannedExperiment:
        # Root, as which these tests run, has no namespace of its own unless it asks for one.
        site = Container(
            **{"runtime": "apptainer", "program": containers.program, "userns": True, **keys}
        )
        words = exec_words(site, JobSpec(), run=experiment.filename is None)
        path = image or containers.python
        planned = PlannedImage(path, location=Location("file", path))
        return replace(experiment, exec_words=words, image=planned)

    return wrap


def test_a_payload_in_a_container_sees_what_is_its_own_and_nothing_else(
    node: Node, contained: Callable[..., PlannedExperiment], tmp_path: Path
) -> None:
    data, secret = tmp_path / "data", tmp_path / "secret"
    data.mkdir()
    (data / "file").write_text("bound")
    secret.write_text("of the host")
    config = {**ODD, "PATH": "/mine:%PATH%", "UID": "7", "a-b": "x", "APPTAINER_BIND": "/"}
    script = node.script(
        LOOK, str(secret), "a b", "$HOME", environment=tuple((n, v) for n, v in config.items())
    )
    node.write(
        contained(script, binds=("$DATA:/data:ro",)),
        container=ContainerSetup(environment=("PROXY",)),
    )
    node.start(
        DATA=str(data),
        PROXY="http://proxy",
        OF_THE_HOST="hidden",
        SLURM_JOB_NAME="j",
        CUDA_VISIBLE_DEVICES="2,3",
        APPTAINERENV_LEAK="leaked",
        SINGULARITY_BIND="/nonexistent",
    ).wait(150)
    record = node.record()
    assert record.reason is Reason.COMPLETED, node.log()
    seen = json.loads(node.members("modeldir.tar")["seen"])
    env = seen["env"]
    assert {name: env[name] for name in ODD} == ODD
    assert (env["PROXY"], env["SLURM_JOB_NAME"]) == ("http://proxy", "j")
    assert "OF_THE_HOST" not in env and "LEAK" not in env
    assert env["PATH"].startswith("/mine:/usr/local/sbin:")
    root = node.home / "experiments" / "k-1"
    assert (env["HOME"], seen["cwd"]) == (str(root), str(root / "workspace"))
    assert seen["home"] == ["modeldir", "output", "workspace"]
    assert (env["TMPDIR"], seen["secret"]) == ("/tmp", False)
    assert set(seen["tmp"]) <= {root.parts[2]}  # where the scratch is below /tmp
    assert (seen["args"], seen["data"]) == ([str(secret), "a b", "$HOME"], "bound")
    said = [event["text"] for event in node.events() if event["event"] == "left_out"]
    assert len(said) == 3 and all("config.env may not set" in text for text in said)


def test_a_plan_from_before_an_upgrade_runs_in_its_container_too(
    node: Node, containers: Any
) -> None:
    """As it was written before images were planned: the image is the last word."""
    words = ("exec", "--contain", "--home", "@ROOT@", "--pwd", "@WORKSPACE@", "--userns")
    script = node.script(
        "import os, sys; print(os.path.exists(sys.argv[1]), os.getcwd() == sys.argv[2], "
        "os.environ['MINE'], os.environ['TMPDIR'])",
        str(Path(__file__)),
        str(node.home / "experiments" / "k-1" / "workspace"),
        environment=(("MINE", "a b"),),
        python_packages=("never-installed",),
    )
    node.write(replace(script, exec_words=(containers.program, *words, containers.python)))
    node.start().wait(150)
    assert node.record().reason is Reason.COMPLETED, node.log()
    assert f"False True a b {node.home}/" in node.log()


MARK = f"of-the-container-tests-{os.getpid()}"  # another run may be on this machine
SLOW = """
import os, signal, sys, time
told = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: told.append(signal.Signals(number).name))
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else signal.SIG_DFL)
    os.setsid()
    time.sleep(600)
open("../modeldir/ready", "w").close()
until = time.monotonic() + 60
while not told and time.monotonic() < until:
    time.sleep(0.02)
time.sleep(0.7)                     # a second signal would come now
import wave                         # from the image, which must still be there
open("../modeldir/told", "w").write(f"{' '.join(told)} {wave.__name__}")
sys.exit(7)
"""


@pytest.mark.parametrize(("first", "isolation"), [("TERM", True), ("TERM", False), ("USR1", True)])
def test_a_stop_reaches_the_payload_once_and_its_whole_tree_ends(
    node: Node, contained: Callable[..., PlannedExperiment], first: str, isolation: bool
) -> None:
    # One that ignores the signal is ended by the end of its namespace, if it has one.
    how = "stubborn" if isolation else "obedient"
    experiment = contained(node.script(SLOW, MARK, how), isolation=isolation)
    node.write(experiment, payload_signal=first, payload_grace=20.0)
    job = node.start()
    node.wait_until((node.home / "experiments" / "k-1" / "modeldir" / "ready").exists)
    job.terminate()
    job.wait(150)
    record = node.record()
    assert (record.reason, record.exit_code) == (Reason.CANCELLED, 7)
    told = node.members("modeldir.tar")["told"].decode()
    assert told == f"SIG{first} wave"
    assert MARK.encode() not in b"".join(_command_lines())


def test_a_schedulers_signal_to_all_processes_leaves_the_image_in_place(
    node: Node, contained: Callable[..., PlannedExperiment]
) -> None:
    node.write(contained(node.script(SLOW, MARK)), payload_grace=20.0)
    job = node.start(SLURM_JOB_ID="7")
    node.wait_until((node.home / "experiments" / "k-1" / "modeldir" / "ready").exists)
    for pid in [*descendants(job.pid), job.pid]:
        with contextlib.suppress(ProcessLookupError):  # gone with the one before it
            os.kill(pid, signal.SIGTERM)
    job.wait(150)
    assert (node.record().reason, node.record().exit_code) == (Reason.CANCELLED, 7), node.log()
    # The runtime passes its own on, so that one or two have come.
    told = node.members("modeldir.tar")["told"].decode()
    assert set(told.split()) == {"SIGTERM", "wave"}


def test_a_job_side_that_is_killed_takes_the_container_with_it(
    node: Node, contained: Callable[..., PlannedExperiment]
) -> None:
    node.write(contained(node.script(SLOW, MARK)))
    job = node.start()
    node.wait_until((node.home / "experiments" / "k-1" / "modeldir" / "ready").exists)
    assert MARK.encode() in b"".join(_command_lines())
    running = descendants(job.pid)  # what holds the image among them
    job.kill()
    node.wait_until(lambda: not any(map(_command_line, running)))


def _command_lines() -> list[bytes]:
    return [_command_line(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")]


def _command_line(pid: int) -> bytes:
    """Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("script", "reason", "code", "signum"),
    [
        ("import sys; sys.exit(42)", Reason.PAYLOAD_EXIT, 42, None),
        ("import os; os.kill(os.getpid(), 11)", Reason.PAYLOAD_SIGNAL, None, signal.SIGSEGV),
        ("import sys; sys.exit(255)", Reason.PAYLOAD_EXIT, 255, None),
    ],
)
def test_exit_codes_survive(
    node: Node,
    contained: Callable[..., PlannedExperiment],
    script: str,
    reason: Reason,
    code: int | None,
    signum: int | None,
) -> None:
    record = node.run(contained(node.script(script)))
    assert (record.reason, record.exit_code, record.signal) == (reason, code, signum)


@pytest.fixture
def spoiled(containers: Any, tmp_path: Path) -> Callable[[str], str]:
    """An image with something wrong about it."""

    def make(what: str) -> str:
        path = tmp_path / f"{what}.sif"
        content = Path(containers.busybox).read_bytes()
        if what == "text":
            content = b"not an image\n" * 100
        elif what == "cut":
            content = content[: len(content) // 2]
        elif what == "foreign":
            # The partition's descriptor (SIF's specification): a squashfs, of the system, and
            # its architecture: 02 is amd64, 04 is arm64.
            system = struct.pack("<ii", 1, 2)
            assert content.count(system + b"02\0") == 1
            content = content.replace(system + b"02\0", system + b"04\0")
        elif what == "gone":
            return str(path)
        path.write_bytes(content)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("what", "reason", "line"),
    [
        ("text", Reason.ARTIFACT_REFUSED, "not a container image"),
        ("cut", Reason.ARTIFACT_REFUSED, "the container image cannot be run: .*squashfs"),
        ("foreign", Reason.ARTIFACT_REFUSED, r"architecture \(arm64\) could not run on the host"),
        ("gone", Reason.ARTIFACT_NOT_FOUND, "is not on this node"),
        ("python", Reason.PAYLOAD_NOT_STARTED, 'cannot run the payload: "python3": executable'),
    ],
)
def test_an_image_that_cannot_be_run_is_named_on_one_line(
    node: Node,
    contained: Callable[..., PlannedExperiment],
    containers: Any,
    spoiled: Callable[[str], str],
    what: str,
    reason: Reason,
    line: str,
) -> None:
    images = ImageSetup(runtime=containers.program)
    record = node.run(contained(node.script("pass"), spoiled(what)), setup={"images": images})
    assert record.reason is reason, record.text
    assert re.search(line, record.text), record.text
    assert "\n" not in record.text


def test_links_that_a_container_leaves_lead_nobody_to_the_nodes_own_files(
    node: Node, contained: Callable[..., PlannedExperiment], tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("s3cr3t of the host")
    node.write(
        contained(
            node.script(
                "import os, sys; os.rmdir('../modeldir'); os.symlink(sys.argv[1], '../modeldir')\n"
                "print('linked')",
                str(private),
            )
        )
    )
    node.start().wait(150)
    record = node.record()
    assert record.reason is Reason.UPLOAD_FAILED, node.log()
    assert "leads out of the experiment's folder" in record.text
    assert "linked" in node.log()
    stored = b"".join(path.read_bytes() for path in node.store.rglob("*.tar"))
    assert b"s3cr3t of the host" not in stored


def test_a_node_without_the_runtime_is_at_fault(
    node: Node, contained: Callable[..., PlannedExperiment]
) -> None:
    record = node.run(contained(node.script("pass"), program="/nowhere/apptainer"))
    assert record.reason is Reason.CONTAINER_FAILED
    assert "/nowhere/apptainer: is not on this node" in record.text
    assert record.payload_started_at is None


def test_without_a_script_the_images_own_program_gets_the_arguments(
    node: Node, contained: Callable[..., PlannedExperiment], containers: Any
) -> None:
    own = node.script("pass", "a b", "$HOME", filename=None)
    record = node.run(contained(own, containers.busybox))
    assert record.reason is Reason.COMPLETED
    assert record.last_lines == ("runscript of the image: a b $HOME",)


def test_packages_are_installed_on_top_of_the_images_python_once(
    node: Node, contained: Callable[..., PlannedExperiment], offline: dict[str, str]
) -> None:
    script = "import alpha, sys; print(alpha.version, sys.prefix != sys.base_prefix)"
    wheels = offline["PIP_FIND_LINKS"]
    asked = contained(
        node.script(script, python_packages=("alpha==1.0",), pythonenv="install"),
        binds=(f"{wheels}:{wheels}:ro",),
    )
    job = {name: offline[name] for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    for number in (1, 2):
        second = replace(asked, attempt=number)
        node.write(second)
        (node.batch / "records" / "1.json").unlink(missing_ok=True)
        (node.batch / "claims" / "1").unlink(missing_ok=True)
        node.start(**job).wait(120)
        assert node.record().last_lines == ("1.0 True",), node.log()
    built = [event for event in node.events() if event["event"] == "built"]
    assert len(built) == 1


def test_the_images_python_is_taken_as_it_is_unless_somebody_says_otherwise(
    node: Node, contained: Callable[..., PlannedExperiment]
) -> None:
    record = node.run(contained(node.script("print('ran')", python_packages=("no-such==1.0",))))
    assert record.last_lines == ("ran",)


NO_NAMESPACES = """#!/bin/sh
exec unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_user_namespaces
exec "$@"' sh @PROGRAM@ "$@"
"""


@pytest.mark.parametrize("pythonenv", ["image", "install"])
def test_a_node_without_user_namespaces_is_at_fault_and_not_the_payload(
    node: Node,
    contained: Callable[..., PlannedExperiment],
    containers: Any,
    tmp_path: Path,
    pythonenv: str,
) -> None:
    program = tmp_path / "apptainer"
    program.write_text(NO_NAMESPACES.replace("@PROGRAM@", containers.program))
    program.chmod(0o755)
    script = node.script("print('ran')", python_packages=("alpha==1.0",), pythonenv=pythonenv)
    record = node.run(contained(script, program=str(program)))
    assert record.reason is Reason.CONTAINER_FAILED, record
    assert "user namespace" in record.text and record.text.isprintable()


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        (
            1,
            "\x1b[91mERROR  : Failed to create user namespace: x\n\x1b[0m",
            Reason.CONTAINER_FAILED,
        ),
        (255, "FATAL:   container creation failed: mount hook failure", Reason.CONTAINER_FAILED),
        (
            255,
            "FATAL:   open image /a: image format not recognized",
            Reason.ARTIFACT_REFUSED,
        ),
        (
            255,
            "FATAL:   container creation failed: while mounting image /proc/self/fd/3: kernel "
            "reported a bad superblock for squashfs image partition",
            Reason.ARTIFACT_REFUSED,
        ),
        (255, "FATAL:   destination /dev doesn't exist in container", Reason.ARTIFACT_REFUSED),
        (255, 'FATAL:   "python3": executable file not found in $PATH', Reason.PAYLOAD_NOT_STARTED),
        (255, "FATAL:   permission denied", Reason.PAYLOAD_NOT_STARTED),
        (255, "FATAL:   open /etc/x: permission denied", Reason.CONTAINER_FAILED),
        (1, "Run 'apptainer --help' for more detailed usage information.", Reason.CONTAINER_FAILED),
        (255, "the payload's own words", None),
        (1, "FATAL:   of the payload", None),
        (1, "ERROR: of the payload", None),
        (255, "ERROR  : of the payload", None),
    ],
)
def test_the_runtimes_failures_are_told_from_the_payloads(
    code: int, line: str, reason: Reason | None
) -> None:
    ending = failure_of(
        code, ["before", *line.split("\n"), "WARNING: of the runtime's clearing up"]
    )
    assert (ending.reason if ending else None) is reason


def test_the_path_inside_is_the_images_with_what_is_added() -> None:
    assert inside_variables({"PATH": "/a:%PATH%:/b"}, "/venv")[0] == {
        "VIRTUAL_ENV": "/venv",
        "PREPEND_PATH": "/venv/bin:/a",
        "APPEND_PATH": "/b",
    }
    assert inside_variables({"PATH": "/only"}, "/venv")[0]["PATH"] == "/venv/bin:/only"
    assert inside_variables({}) == ({}, ())


@pytest.mark.parametrize(
    ("option", "job", "runtimes"),
    [
        ("--nv", {"SLURM_JOB_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "0,1"}, "0,1"),
        ("--nv", {"SLURM_JOB_GPUS": "2", "CUDA_VISIBLE_DEVICES": "MIG-4a"}, "MIG-4a"),
        ("--nv", {}, "all"),  # nobody says which; the job's cgroup does
        ("--rocm", {"SLURM_JOB_GPUS": "2,3", "ROCR_VISIBLE_DEVICES": "0,1"}, None),
        ("--userns", {}, None),
    ],
)
def test_the_runtime_is_told_the_devices_and_the_payload_too(
    tmp_path: Path, node: Node, option: str, job: dict[str, str], runtimes: str | None
) -> None:
    workspace = Workspace(tmp_path, tmp_path / "experiments" / "k", True)
    for folder in (workspace.cwd, workspace.runner, workspace.tmp):
        folder.mkdir(parents=True)
    words = ("apptainer", "exec", option, "--env-file", "@ENVIRONMENT@", "@BINDS@", "@IMAGE@")
    vendor = {"--nv": "nvidia", "--rocm": "amd"}.get(option, "")
    site = ContainerSetup()
    container = InContainer(words, "/a.sif", "", site, workspace, {"PATH": "/bin", **job})
    experiment = node.script("pass", gpus=1 if vendor else 0, gpu_vendor=vendor)
    inside, _ = payload_environment(
        experiment, workspace, PythonHome("python3"), container.passed, container.tmp
    )
    _, environment = container.start(
        ["python3"], inside, PythonHome("python3"), Events(tmp_path / "events")
    )
    assert environment.get("NVIDIA_VISIBLE_DEVICES") == runtimes
    variables = container.file.read_text().splitlines()
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if name in job:
            assert f"{name}='{job[name]}'" in variables
    if not vendor:
        assert "CUDA_VISIBLE_DEVICES='-1'" in variables


def test_the_file_of_variables_is_private_and_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "variables"
    write_variables(path, {"SECRET": "s"})
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(PayloadNotStarted):
        write_variables(tmp_path / "other", {"A": "\ud800"})
    assert not (tmp_path / "other").exists()


def test_a_signal_that_the_runtime_tells_by_its_code_is_the_payloads() -> None:
    assert [as_signal(code) for code in (0, 7, 128, 137, 143, 200, 255, -9)] == [
        *(0, 7, 128, -9, -15, 200, 255, -9)
    ]
