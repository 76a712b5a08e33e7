"""The command line as a person or a script meets it, on the embedded defaults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from hpcrunner.cli.main import app

HPCRUNNER = str(Path(sys.executable).with_name("hpcrunner"))
REQUESTS = Path(__file__).parents[1] / "data" / "requests"

SCRIPT = """
import os, sys, time
print("got", sys.argv[1:], os.environ.get("COLOUR"), os.environ.get("GATEWAY_SECRET"))
if sys.argv[1] == "sleep":
    print("sleeping", flush=True)
    time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[1]) if sys.argv[1].isdigit() else 0)
"""


class Person:
    """Somebody at a shell, with a spool and a script of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.script = folder / "code" / "run.py"
        self.script.parent.mkdir()
        self.script.write_text(SCRIPT)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "SPOOL": str(self.spool),
            "GATEWAY_SECRET": "of-the-gateway",
        }

    def start(self, *words: str | Path, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [HPCRUNNER, *map(str, words)],
            env={**self.env, **more.pop("env", {})},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, *words: str | Path, code: int | None = 0, **more: Any) -> tuple[str, str]:
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=240)
        assert code is None or process.returncode == code, (process.returncode, out, err)
        return out, err

    def status(self, *names: str) -> Any:
        return json.loads(self.run("status", *names, "--json")[0])


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def until(holds: Callable[[], Any], seconds: float = 150) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.2)
    raise AssertionError("it never came to be")


def test_the_demo_runs_its_three_samples_to_their_three_endings(person: Person) -> None:
    out, _ = person.run("demo", "--folder", "demo")
    for word in ("SUCCEEDED", "PAYLOAD_EXIT", "MAX_DURATION", "modeldir", "expected 3 channels"):
        assert word in out
    told = json.loads(person.run("status", "--json", "--spool", "demo/spool")[0])
    assert [(e["state"], e["reason"]) for e in told] == [
        ("SUCCEEDED", "COMPLETED"),
        ("FAILED", "PAYLOAD_EXIT"),
        ("FAILED", "MAX_DURATION"),
    ]


def test_submit_wait_shows_the_output_and_ends_with_the_payloads_code(person: Person) -> None:
    out, err = person.run(
        "submit", "--wait", "--env", "COLOUR=blue", "--", person.script, "0", "a b", "$(x)"
    )
    assert "got ['0', 'a b', '$(x)'] blue None" in out
    assert [line.split()[1] for line in err.splitlines()][-1] == "SUCCEEDED"
    person.run("submit", "--wait", "--", person.script, "7", code=7)
    person.run(
        "submit", "--wait", "--max-duration", "2s", "--", person.script, "sleep", "60", code=124
    )


def test_what_could_not_be_begun_does_not_run_later(person: Person) -> None:
    templates = person.folder / "templates"
    templates.mkdir()
    (templates / "batch.sh.j2").write_text("{% if %}")
    site = person.folder / "site.yaml"
    site.write_text(f"scheduler: local\ntemplates: {templates}\n")
    words = ["submit", "--site", site, "--", person.script, "0"]
    _, err = person.run(*words, code=78)
    assert "batch.sh.j2 (line 1): " in err and err.count("\n") == 1
    site.write_text("scheduler: drmaa\ndrmaa: {library: /nowhere/libdrmaa.so}\n")
    person.run(*words, code=69)
    assert list((person.spool / "queue" / "local_submit").iterdir()) == []


def test_submit_without_wait_comes_back_and_status_tells_the_end(person: Person) -> None:
    out, _ = person.run("submit", "--", person.script, "3")
    (name,) = out.split()
    ended = until(lambda: [e for e in person.status(name) if e["state"] == "FAILED"])[0]
    assert (ended["reason"], ended["exit_code"]) == ("PAYLOAD_EXIT", 3)
    assert ended["last_lines"][-1].startswith("got ['3']")
    text, _ = person.run("status", name)
    assert "PAYLOAD_EXIT: " in text
    logs, _ = person.run("logs", name)
    assert "got ['3'] None None" in logs
    for owner, count in (("guest", 1), ("nobody", 0)):
        out, _ = person.run("status", "--owner", owner, "--state", "failed", "--json")
        assert len(json.loads(out)) == count
    person.run("status", "--state", "nonsense", code=64)


def test_a_request_file_goes_the_same_way(person: Person) -> None:
    person.run("submit", "--wait", "--", person.script, "0")
    (name,) = [e["id"] for e in person.status()]
    plan = next(person.spool.glob("batches/*/plan.json"))
    document = json.loads(json.loads(plan.read_text())["experiments"][0]["document"])
    document["key"] = "again"
    store = {"type": "local", "endpoint": str(person.spool / "store"), "bucket": "storage"}
    request = {"experiment": document, "config": {"storage": store}}
    (person.folder / "request.json").write_text(json.dumps(request))
    person.run("submit", "--wait", "request.json")
    assert [e["key"] for e in person.status()][-1] == "again"
    assert len(person.status()) == 2
    assert person.status(name)[0]["state"] == "SUCCEEDED"


def test_logs_follow_until_the_end(person: Person) -> None:
    gateway = person.start("gateway", "--limit-tasks", "1")
    until(lambda: "pid" in _text(person.spool / "gateway.lock"))
    out, _ = person.run("submit", "--", person.script, "sleep", "4")
    text, _ = person.run("logs", "-f", out.strip())
    assert "sleeping" in text
    assert "hpcrunner: ended" in text or "ended" in text
    assert gateway.wait(120) == 0


def test_results_fetches_what_an_experiment_has_saved(person: Person) -> None:
    person.script.write_text('open("../modeldir/weights", "w").write("0.5"); print("trained")')
    person.run("submit", "--wait", "--", person.script)
    (name,) = (e["id"] for e in person.status())
    out, err = person.run("results", name)
    fetched = [line.split()[0] for line in out.splitlines()]
    # What the job side itself saves is among them: _metadata, for one.
    assert [f for f in fetched if "/_" not in f] == [f"{name}/modeldir", f"{name}/output"]
    assert "retval" in err
    assert (person.folder / name / "modeldir/weights").read_text() == "0.5"
    assert (person.folder / name / "output/output").read_text() == "trained\n"
    _, err = person.run("results", name, code=73)
    assert "is there already" in err
    person.run("results", name[:6], "modeldir", "--to", "elsewhere")
    assert (person.folder / "elsewhere/modeldir/weights").read_text() == "0.5"
    assert not (person.folder / "elsewhere/output").exists()
    _, err = person.run("results", name, "nope", "--to", "x", code=66)
    assert "it has workspace, modeldir" in err


def test_cancel_ends_a_running_experiment(person: Person) -> None:
    name = person.run("submit", "--", person.script, "sleep", "600")[0].strip()
    until(lambda: person.status(name)[0]["state"] == "RUNNING")
    person.run("cancel", name)
    ended = until(lambda: [e for e in person.status(name) if e["state"] == "CANCELLED"])[0]
    assert ended["reason"] == "CANCELLED"
    (row,) = (line for line in person.run("status")[0].splitlines() if name in line)
    assert row.count("CANCELLED") == 1
    page = person.run("status", name)[0]
    assert f"  reason    {ended['text']}\n" in page
    assert all(line.count("CANCELLED") <= 1 for line in page.splitlines())
    again, _ = person.run("cancel", name)
    assert "is CANCELLED already" in again


def test_a_second_gateway_is_refused_by_the_name_of_the_first(person: Person) -> None:
    first = person.start("gateway")
    until(lambda: "pid" in _text(person.spool / "gateway.lock"))
    _, err = person.run("gateway", code=75)
    first.terminate()
    assert first.wait(120) == 0
    assert f"pid {first.pid}" in err
    assert len(err.splitlines()) == 1


def test_experiments_survive_a_killed_gateway(person: Person) -> None:
    first = person.start("gateway")
    until(lambda: "pid" in _text(person.spool / "gateway.lock"))
    name = person.run("submit", "--", person.script, "sleep", "3")[0].strip()
    first.kill()
    first.wait()
    second = person.start("gateway", "--limit-idle-duration", "1s")
    assert second.wait(120) == 0
    assert person.status(name)[0]["state"] == "SUCCEEDED"


def test_who_waits_for_an_experiment_goes_on_with_it_when_the_gateway_dies(person: Person) -> None:
    gateway = person.start("gateway")
    until(lambda: "pid" in _text(person.spool / "gateway.lock"))
    waits = person.start("submit", "--wait", "--", person.script, "sleep", "4")
    until(lambda: [e for e in person.status() if e["state"] == "RUNNING"])
    gateway.kill()
    gateway.wait()
    out, err = waits.communicate(timeout=150)
    assert waits.returncode == 0, err
    assert "sleeping" in out
    assert [line.split()[1] for line in err.splitlines()][-1] == "SUCCEEDED"


def test_render_shows_script_and_native_specification_and_no_secret(person: Person) -> None:
    captured = json.loads((REQUESTS / "run_0.0.49.json").read_text())
    (person.folder / "r.json").write_text(json.dumps(captured["payload"]))
    out, _ = person.run("render", "r.json", "--site", "generic-slurm", "--spool", "s")
    assert "#SBATCH --job-name=hpcr-" in out
    assert "# --job_name=hpcr-" in out
    assert "demo-secret-key" not in out
    assert "demo-access-key" not in out
    assert not (person.folder / "s").exists()


def test_the_sites_rules_are_told_before_anything_is_sent(person: Person) -> None:
    (person.folder / "ruled.yaml").write_text(
        "spool: ~/spool\naccount: all\nrules:\n"
        "  - {name: vips, queues: ^rmq_vip_, account: vip}\n"
        "  - {name: small, queues: ^local_submit$, max_cpus: 1}\n"
    )
    captured = json.loads((REQUESTS / "run_0.0.49.json").read_text())["payload"]
    captured["experiment"]["resources_needed"]["cpus"] = 2
    captured["experiment"]["time_added"] = time.time()
    (person.folder / "r.json").write_text(json.dumps(captured))
    site = ("r.json", "--site", "./ruled.yaml")
    out, _ = person.run("render", *site, "--queue", "rmq_vip_1")
    assert "#SBATCH --account=vip\n" in out
    _, err = person.run("render", *site, "--queue", "rmq_other", code=65)
    assert "none of the site's rules is for it" in err
    for command in ("render", "submit"):
        _, err = person.run(command, *site, code=65)
        assert "2 CPUs asked, 1 allowed" in err
        assert "rule small" in err


def test_an_option_is_also_an_environment_variable_and_the_command_line_wins(
    person: Person,
) -> None:
    (person.folder / "r.json").write_text("{}")
    _, err = person.run("render", "r.json", code=78, env={"SITE": "nowhere"})
    assert "nowhere" in err
    _, err = person.run("render", "r.json", "--site", "local", code=65, env={"SITE": "nowhere"})
    assert "nowhere" not in err


BAD = [
    (["submit", "missing.json"], 66, "missing.json"),
    (["submit", "--", "missing.py"], 2, "missing.py"),
    (["submit", "bad.json"], 65, "message"),
    (["submit", "--ram", "lots", "--", "code/run.py", "0"], 65, "lots"),
    (["submit", "--gpus", "4", "--", "code/run.py", "0"], 65, "GPU"),
    (["submit", "--max-duration", "soon", "--", "code/run.py", "0"], 65, "soon"),
    (["submit", "--env", "=x", "--", "code/run.py", "0"], None, "env"),
    (["status", "abc"], 73, "nothing has been submitted"),
    (["drain"], 73, "no spool here"),
    (["resume"], 73, "no spool here"),
    (["status", "--site", "nowhere"], 78, "nowhere"),
    (["gateway", "--site", "bad.yaml"], 78, "schedulr"),
    (["gateway", "--queue-match", "("], 64, "queue-match"),
    (["gateway", "--sqs-certs", "$NOWHERE/certs"], 64, "--sqs-certs"),
    (["gateway", "--pubsub-timeout", "0s"], 64, "--pubsub-timeout"),
    (["gateway", "--limit-idle-duration", "a while"], 65, "a while"),
    (["render", "bad.json", "--site", "torn.yaml"], 78, "line"),
    (["site", "init", "a b"], 64, "a b"),
    (["image", "pull", "docker://x", "--site", "nocache.yaml"], 73, "/proc/nowhere"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_is_one_line_and_a_documented_code(
    person: Person, words: list[str], code: int | None, said: str
) -> None:
    (person.folder / "bad.json").write_text("{")
    (person.folder / "bad.yaml").write_text("schedulr: local\n")
    (person.folder / "torn.yaml").write_text("name: [x\n")
    (person.folder / "nocache.yaml").write_text(
        "scheduler: local\ncontainer: {runtime: apptainer, cache: /proc/nowhere}\n"
    )
    process = person.start(*words)
    _, err = process.communicate(timeout=150)
    assert process.returncode != 0
    assert code in (None, process.returncode), err
    assert said in err
    assert "Traceback" not in err
    if code != 2:
        assert len(err.splitlines()) == 1, err


def test_an_experiment_that_nobody_knows_is_said_to_be_so(person: Person) -> None:
    person.run("submit", "--wait", "--", person.script, "0")
    _, err = person.run("logs", "nobody", code=66)
    assert err == "hpcrunner: no experiment 'nobody'; 'hpcrunner status' lists those there are\n"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_the_dead_list_is_shown_retried_and_dropped(person: Person) -> None:
    person.run("submit", "--wait", "--", person.script, "0")
    assert person.run("dead", "list")[0] == "the dead list is empty\n"
    (name,) = person.run("submit", "--", person.script, "3")[0].split()
    until(lambda: [e for e in person.status(name) if e["state"] == "FAILED"])
    (dead,) = json.loads(person.run("dead", "list", "--json")[0])
    assert (dead["id"], dead["reason"]) == (name, "PAYLOAD_EXIT")
    assert name in person.run("dead", "list")[0]
    assert "exit code 3" in person.run("dead", "show", name)[0]

    said, _ = person.run("dead", "retry", name)
    again = said.split()[-1]
    assert said == f"{name} runs again as {again}\n"
    until(lambda: [e for e in person.status(again) if e["state"] == "FAILED"])
    (now,) = json.loads(person.run("dead", "list", "--json")[0])
    assert now["id"] == again
    assert [e["state"] for e in person.status(name)] == ["FAILED"]  # its own ending stays

    assert person.run("dead", "drop", again)[0] == f"{again} dropped\n"
    assert person.run("dead", "list")[0] == "the dead list is empty\n"
    assert [e["state"] for e in person.status(again)] == ["FAILED"]


def test_what_is_not_on_the_dead_list_is_neither_retried_nor_dropped(person: Person) -> None:
    person.run("submit", "--wait", "--", person.script, "0")
    (won,) = person.status()
    for verb in ("retry", "drop"):
        _, err = person.run("dead", verb, code=64)
        assert "nothing is named" in err
        for name in (won["id"], "nosuch"):
            _, err = person.run("dead", verb, name, code=66)
            assert name in err
            assert err.count("\n") == 1
    assert person.status() == [won]


def test_a_container_runs_on_a_workstation(person: Person, containers: Any) -> None:
    (person.folder / "site.yaml").write_text(
        "scheduler: local\npolling: {floor: 0.2, ceiling: 1}\n"
        f"container: {{runtime: apptainer, program: {containers.program}, userns: true}}\n"
    )
    (person.folder / "image.sif").symlink_to(containers.python)
    site = ("--site", "site.yaml", "--spool", person.spool, "--container")
    words = ("--env", "COLOUR=it's", "--", person.script, "7", "a b")
    out, _ = person.run("submit", "--wait", *site, "image.sif", *words, code=7)
    assert "got ['7', 'a b'] it's None" in out
    out, _ = person.run("submit", "--wait", *site, containers.busybox)
    assert "runscript of the image:" in out
    _, err = person.run("submit", "--wait", code=2)
    assert "neither a script nor --container" in err


def _words_of(command: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every command and long option below it, with the command's words."""
    for name, below in getattr(command, "commands", {}).items():
        yield from _words_of(below, f"{path} {name}")
        yield path, f"{path} {name}"
    for parameter in command.params:
        for option in [*parameter.opts, *parameter.secondary_opts]:
            if option.startswith("--") and option != "--help":
                yield path, option


def test_every_command_and_option_stands_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "cli.md").read_text() + (docs / "doctor.md").read_text()
    missing = [
        (command, word)
        for command, word in _words_of(typer.main.get_command(app), "hpcrunner")
        if not re.search(rf"{re.escape(word)}(?![\w-])", text)
    ]
    assert missing == []
