"""How the words of ``hpcrunner gateway`` become options, as the runner's environment has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpcrunner.cli import gateway
from hpcrunner.cli.main import app
from hpcrunner.gateway.capacity import UNLIMITED, Capacity
from hpcrunner.gateway.options import GatewayOptions


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The options that a gateway would start with."""
    seen: list[GatewayOptions] = []

    def serve(read_site: object, options: GatewayOptions, *more: object, **rest: object) -> None:
        seen.append(options)

    monkeypatch.setattr(gateway, "serve", serve)

    def given(*words: str, **env: str) -> GatewayOptions:
        runner = CliRunner(env={"SPOOL": str(tmp_path / "spool"), **env})
        done = runner.invoke(app, ["gateway", *words])
        assert done.exit_code == 0, (done.output, done.exception)
        return seen.pop()

    return given


def test_limits_come_from_the_runners_own_variables(given: Any) -> None:
    env = {"MAX_CORES": "8", "MAX_MEM": "64gb", "MAX_DISK": "1tib", "CPU_ONLY": "true"}
    wanted = Capacity(cores=8, memory=64 * 10**9, disk=1024**4, cpu_only=True)
    assert given(**env).capacity == wanted
    words = ("--max-cores", "8", "--max-mem", "64G", "--max-disk", "1 TiB", "--cpu-only")
    assert given(*words).capacity == wanted


def test_the_runners_words_for_no_limit_are_known(given: Any) -> None:
    env = {"MAX_CORES": "0", "MAX_MEM": "0gb", "MAX_DISK": "0gb", "CPU_ONLY": "false"}
    assert given(**env).capacity == UNLIMITED
    assert given().capacity == UNLIMITED


def test_the_command_line_wins_over_the_environment(given: Any) -> None:
    assert given("--max-cores", "2", MAX_CORES="8").capacity.cores == 2


def test_nothing_listens_and_nobody_is_told_by_default(given: Any) -> None:
    options = given()
    assert options.prom_address == ""
    assert options.slack.hook == ""


def test_metrics_and_notes_are_asked_for_by_variables_too(given: Any) -> None:
    env = {"PROM_ADDRESS": ":9090", "SLACK_HOOK": "https://h/x", "SLACK_ROOM": "#lab"}
    options = given(**env)
    assert options.prom_address == ":9090"
    assert (options.slack.hook, options.slack.room) == ("https://h/x", "#lab")
