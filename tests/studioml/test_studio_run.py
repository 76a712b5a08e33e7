"""The released ``studio run`` (0.0.49), unchanged, on RabbitMQ, Slurm and S3: the user's view."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.rabbitmq,
    pytest.mark.s3,
    pytest.mark.client,
    pytest.mark.timeout(600),
]

VERSION = "0.0.49"

TRAIN = """
import os, sys, time
print("args", sys.argv[1:])
print("flag", os.environ["DEMO_FLAG"])
print("secret", os.environ.get("GATEWAY_SECRET"))
os.makedirs("../modeldir", exist_ok=True)
open("../modeldir/weights.txt", "w").write("0.5")
for _ in range(600):
    if os.path.exists(os.environ["GO_FILE"]):
        break
    time.sleep(0.2)
print("trained")
"""

# The client puts each value in for a name that has no '=' behind it in its line.
SWEEP = """
learning_rate = 1.0
depth = 1.0
import json
print(json.dumps(["trained with", learning_rate, depth]))
open("../modeldir/weights.txt", "w").write(str(learning_rate * depth))
"""

LOOK = """
import json, os, sys
from studio import fs_tracker
found = {}
for tag in ("one", "many", "before"):
    path = os.path.join("..", tag)  # this version's fs_tracker.get_artifact is broken
    if os.path.isdir(path):
        found[tag] = {name: open(os.path.join(path, name)).read() for name in os.listdir(path)}
folder = fs_tracker.get_model_directory()
os.makedirs(folder, exist_ok=True)
open(os.path.join(folder, "weights.txt"), "w").write("0.25")
if os.path.isdir("../kept"):
    open("../kept/c.txt", "w").write("gamma")
print(json.dumps({"args": sys.argv[1:], "found": found}))
"""

ENDLESS = """
import time
print("for ever", flush=True)
time.sleep(300)
"""


@pytest.fixture
def customer(workdir: Path, new_customer: Any) -> Any:
    made = new_customer(workdir, VERSION, env={"DEMO_FLAG": "x y", "GO_FILE": str(workdir / "go")})
    (workdir / "workspace" / "train.py").write_text(TRAIN)
    return made


@pytest.fixture(params=["sbatch", pytest.param("drmaa", marks=pytest.mark.drmaa)])
def gateway(request: pytest.FixtureRequest, customer: Any, serving: Any) -> Iterator[Any]:
    """A gateway of the ordinary user, serving the customer's queue through one scheduler."""
    if request.param == "drmaa" and not customer.cluster.drmaa_library:
        pytest.skip("DRMAA_LIBRARY_PATH names no slurm-drmaa library")
    with serving(customer, request.param) as running:
        yield running


def test_studio_run_gets_its_results_back(customer: Any, gateway: Any) -> None:
    key = customer.studio_run(f"run_{customer.folder.name}", "train.py", "3", "4", "a b")
    customer.read(key, until="running")
    (customer.folder / "go").touch()
    told = customer.read(key, "output", "modeldir", "workspace", until="finished")
    assert told["time_finished"] >= told["time_started"]
    output = told["output"]["file"]
    assert "args ['3', '4', 'a b']" in output
    assert "flag x y" in output
    assert "secret None" in output
    assert output.rstrip().endswith("trained")
    assert told["modeldir"] == {"folder": {"weights.txt": "0.5"}}
    assert told["workspace"] == {"folder": {"train.py": TRAIN}}


def test_studio_run_needs_neither_a_broker_nor_s3(
    workdir: Path, new_customer: Any, serving: Any
) -> None:
    stores = {"type": "local", "endpoint": str(workdir / "store")}
    customer = new_customer(workdir, VERSION, storage=stores, database=stores, cloud={})
    customer = replace(customer, queue=f"local_{workdir.name}")
    (workdir / "store").mkdir()
    (workdir / "workspace" / "run.py").write_text('print("shared folders do")')
    subprocess.run(["chown", "-R", customer.cluster.user, workdir], check=True)
    with serving(customer, "auto", "--queue-root", workdir / ".studioml" / "queue"):
        key = customer.studio_run("filed", "run.py")
        told = customer.read(key, "output", "workspace", until="finished")
    assert told["output"] == {"file": "shared folders do\n"}
    assert list(told["workspace"]["folder"]) == ["run.py"]


@dataclass(frozen=True)
class Runs:
    """One user's runs, all submitted, with what the gateway knows of them."""

    customer: Any
    gateway: Any
    keys: dict[str, str]

    def key(self, name: str) -> str:
        return self.keys[name]

    def submit(self, name: str, *words: str) -> None:
        key = f"{name}_{self.customer.folder.name}"
        self.keys[name] = self.customer.studio_run(key, *words)

    def until(self, name: str, *states: str) -> dict[str, Any]:
        """The gateway's word on a run, once it has one of these states."""
        end = time.monotonic() + 240
        found: list[dict[str, Any]] = []
        while time.monotonic() < end:
            found = [e for e in self.gateway.status() if e["key"] == self.key(name)]
            if found and found[-1]["state"] in states:
                return found[-1]
            time.sleep(0.5)
        raise AssertionError(f"{name} never {states}, but {found}\n{self.gateway.log()[-4000:]}")


@pytest.fixture(scope="module")
def runs(new_workdir: Any, new_customer: Any, serving: Any) -> Iterator[Runs]:
    with new_workdir() as folder:
        customer = new_customer(folder, VERSION)
        workspace = folder / "workspace"
        (workspace / "pkg").mkdir()
        for name, text in {"sweep": SWEEP, "look": LOOK, "endless": ENDLESS}.items():
            (workspace / f"{name}.py").write_text(text)
        (workspace / "pkg" / "mod.py").write_text(LOOK)
        (folder / "data").mkdir()
        (folder / "data" / "a.txt").write_text("alpha")
        (folder / "data" / "b.txt").write_text("beta")
        subprocess.run(["chown", "-R", customer.cluster.user, folder], check=True)
        with serving(customer) as gateway:
            runs = Runs(customer, gateway, {})
            rates, depths = "--hyperparam=learning_rate=0.25,0.5", "--hyperparam=depth=2,3"
            captured = (
                f"--capture-once={folder}/data/a.txt:one",
                f"--capture-once={folder}/data:many",
                f"--capture={folder}/data:kept",
            )
            with ThreadPoolExecutor(4) as pool:
                submitted = [
                    pool.submit(runs.submit, "sweep", rates, depths, "sweep.py"),
                    pool.submit(
                        runs.submit, "look", *captured, "look.py", "--experiment", "aaa", "it's"
                    ),
                    pool.submit(runs.submit, "module", "pkg::mod", "x"),
                    pool.submit(runs.submit, "long", "--max-duration=3s", "endless.py"),
                    pool.submit(runs.submit, "late", "--lifetime=-10m", "look.py"),
                    pool.submit(runs.submit, "stopped", "endless.py"),
                ]
                for one_of_them in submitted:
                    one_of_them.result()
            yield runs


def test_a_hyperparameter_run_trains_with_each_combination(runs: Runs) -> None:
    def mine() -> list[str]:
        return [e["key"] for e in runs.gateway.status() if e["key"].startswith(runs.key("sweep"))]

    end = time.monotonic() + 120
    while len(keys := mine()) < 4:
        assert time.monotonic() < end, keys
        time.sleep(0.5)
    told = runs.customer.read_all(keys, "output", "modeldir", "workspace", until="finished")
    combinations = [(rate, depth) for rate in (0.25, 0.5) for depth in (2.0, 3.0)]
    printed = sorted(one["output"]["file"] for one in told.values())
    assert printed == [json.dumps(["trained with", *c]) + "\n" for c in combinations]
    saved = sorted(one["modeldir"]["folder"]["weights.txt"] for one in told.values())
    assert saved == sorted(str(rate * depth) for rate, depth in combinations)
    for one in told.values():
        rate, depth = json.loads(one["output"]["file"])[1:]
        script = one["workspace"]["folder"]["sweep.py"]
        assert f'"trained with", {rate}, {depth}' in script, "each has a workspace of its own"


def test_arguments_and_captured_files_reach_the_script_and_another_run_goes_on_with_its_model(
    runs: Runs,
) -> None:
    told = runs.customer.read(runs.key("look"), "output", "kept", until="finished")
    assert json.loads(told["output"]["file"]) == {
        "args": ["--experiment", "aaa", "it's"],
        "found": {"one": {"a.txt": "alpha"}, "many": {"a.txt": "alpha", "b.txt": "beta"}},
    }
    # This client does not send what was there before, though it is asked to.
    assert told["kept"] == {"folder": {"c.txt": "gamma"}}
    runs.submit("reuse", f"--reuse={runs.key('look')}/modeldir:before", "look.py")
    output = runs.customer.read(runs.key("reuse"), "output", until="finished")["output"]["file"]
    assert json.loads(output)["found"] == {"before": {"weights.txt": "0.25"}}


def test_a_module_is_run_as_one(runs: Runs) -> None:
    output = runs.customer.read(runs.key("module"), "output", until="finished")["output"]["file"]
    assert json.loads(output) == {"args": ["x"], "found": {}}


def test_a_run_is_ended_at_its_longest_duration(runs: Runs) -> None:
    told = runs.customer.read(runs.key("long"), "output", until="finished")
    assert told["output"]["file"].startswith("for ever\n")
    assert runs.until("long", "FAILED")["reason"] == "MAX_DURATION"


def test_a_run_whose_lifetime_is_over_is_taken_and_never_started(runs: Runs) -> None:
    assert runs.until("late", "FAILED", "REJECTED")["reason"] == "LIFETIME_EXPIRED"
    told = runs.customer.read(runs.key("late"), until="finished")
    assert told["time_started"] is None


def test_the_client_stops_a_run(runs: Runs) -> None:
    runs.customer.read(runs.key("stopped"), until="running")
    runs.customer.run("stop", runs.key("stopped"))
    assert runs.until("stopped", "CANCELLED", "FAILED")["state"] == "CANCELLED"
    told = runs.customer.read(runs.key("stopped"), "output")
    assert told["status"] == "stopped"
    assert told["output"]["file"].startswith("for ever\n")
