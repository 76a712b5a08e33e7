"""``hpcrunner submit``: run something by hand, on the way that all work goes."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hpcrunner.cli.common import (
    DEFAULT_SITE,
    AsJson,
    SiteName,
    SpoolPath,
    chosen_site,
    print_json,
)
from hpcrunner.cli.options import option
from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.client.request_file import read_request_file
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.admission import admit_from
from hpcrunner.gateway.assemble import spool_of
from hpcrunner.gateway.by_hand import carry, ended, output_from, submitted
from hpcrunner.gateway.drained import refuse_where_drained
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.spool import SUBMIT_QUEUE
from hpcrunner.gateway.view import exit_code, summary, why
from hpcrunner.sites.site import Site


def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="A request file, or a script and its arguments after '--'; nothing runs the "
            "container's own program.",
            metavar="REQUEST.json | -- SCRIPT [ARG ...]",
            show_default=False,
        ),
    ] = None,
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    cpus: Annotated[int, option("--cpus", "CPUs.", min=0)] = 0,
    gpus: Annotated[int, option("--gpus", "GPUs.", min=0)] = 0,
    gpu_mem: Annotated[str, option("--gpu-mem", "Memory each GPU must have, such as 16g.")] = "",
    gpu_type: Annotated[str, option("--gpu-type", "A type of the site's file, such as a100.")] = "",
    ram: Annotated[str, option("--ram", "Memory, such as 4g.")] = "",
    hdd: Annotated[str, option("--hdd", "Disk for its files, such as 20g.")] = "",
    max_duration: Annotated[str, option("--max-duration", "Limit on its run time: 1h30m.")] = "",
    folder: Annotated[
        str, option("--folder", "Folder that travels with the script; default: the script's.")
    ] = "",
    env: Annotated[
        list[str] | None,
        option("--env", "NAME=VALUE for the payload. May be repeated.", metavar="NAME=VALUE"),
    ] = None,
    pip: Annotated[
        list[str] | None, option("--pip", "A requirement to install first. May be repeated.")
    ] = None,
    python: Annotated[str, option("--python", "Python version of the payload: 3.11.")] = "",
    container: Annotated[str, option("--container", "Container image to run in.")] = "",
    wait: Annotated[
        bool, option("--wait", "Stay until it ends; end with the payload's exit code.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Submit a script with its folder, or a request file, and say its id."""
    chosen = chosen_site(site, spool)
    home = spool_of(chosen)
    home.prepare()
    refuse_where_drained(home)
    if words is not None and len(words) == 1 and words[0].endswith(".json"):
        body = read_request_file(Path(words[0]))
    else:
        if not words and not container:
            raise typer.BadParameter("neither a script nor --container", param_hint="SCRIPT")
        work = Work(
            filename=None,
            args=tuple((words or [])[1:]),
            cpus=cpus,
            gpus=gpus,
            gpu_memory=gpu_mem,
            gpu_type=gpu_type,
            ram=ram,
            hdd=hdd,
            max_duration=max_duration,
            python_version=python,
            packages=tuple(pip or ()),
            environment=dict(_pair(word) for word in env or ()),
            container=_image(container),
        )
        body = _stored(work, words[0] if words else "", folder, home.store)
    since = time.time()
    # What cannot run is said here and now, and costs nothing else.
    admit_from(body, chosen, since, SUBMIT_QUEUE, signed=True)
    message = publish(home.queue_root / SUBMIT_QUEUE, body)
    try:
        last = _stay(chosen, body, since, wait=wait, quiet=json_)
    except HpcrunnerError:
        # Whoever is told that it failed sends it again; nobody shall run it a second time, later.
        # A gateway that has taken it has moved the file away.
        message.unlink(missing_ok=True)
        raise
    if json_:
        print_json(summary(last))
    elif not wait:
        typer.echo(last.id)
    if wait or last.state.final:
        raise typer.Exit(exit_code(last))


def _stay(site: Site, body: bytes, since: float, *, wait: bool, quiet: bool) -> Experiment:
    """Follow it to the scheduler, or to its end: states on stderr, its output on stdout."""
    spool = spool_of(site)
    last: Experiment | None = None
    printed = 0
    for now in carry(site, body, since, ended if wait else submitted):
        if not quiet and (last is None or now.state is not last.state):
            sys.stderr.write(f"{now.id} {now.state.value} {why(now)}".rstrip() + "\n")
        if wait and not quiet:
            for piece in output_from(spool, now, printed):
                printed += len(piece)
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        last = now
    if last is None:
        raise AssertionError("a watched experiment was never seen")
    return last


def _stored(work: Work, script: str, folder: str, store: Path) -> bytes:
    """The message, once what it needs lies in the store; "" runs a container's own program."""
    if script:
        place, filename = _split(Path(script), folder)
        return store_work(replace(work, filename=filename), place, store)[1]
    with tempfile.TemporaryDirectory() as nothing:
        return store_work(work, Path(folder or nothing), store)[1]


def _split(script: Path, folder: str) -> tuple[Path, str]:
    """The folder that travels, and the script's name in it."""
    if not script.is_file():
        raise typer.BadParameter(f"no such file: {script}", param_hint="SCRIPT")
    place = Path(folder).resolve() if folder else script.resolve().parent
    if not script.resolve().is_relative_to(place):
        raise typer.BadParameter(f"{script} is not in {place}", param_hint="--folder")
    return place, str(script.resolve().relative_to(place))


def _image(container: str) -> str:
    """A file by its whole path, since the job runs elsewhere; an address as it is."""
    return container if not container or "://" in container else str(Path(container).absolute())


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise typer.BadParameter(f"{word!r} is not NAME=VALUE", param_hint="--env")
    return name, value
