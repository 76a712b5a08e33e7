"""The ``hpcrunner`` command: its groups, and how every error becomes one line and a code."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from hpcrunner import __version__
from hpcrunner.cli import (
    cancel,
    dead,
    demo,
    doctor,
    drain,
    gateway,
    gc,
    image,
    keys,
    logs,
    render,
    results,
    site,
    site_init,
    status,
    submit,
)
from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.redact import redact_text

app = typer.Typer(
    no_args_is_help=True,
    help="Run queued machine-learning experiments on a cluster.",
    pretty_exceptions_enable=False,
)
app.command("gateway")(gateway.gateway)
app.command("doctor")(doctor.doctor)
app.command("drain")(drain.drain)
app.command("resume")(drain.resume)
app.command("submit")(submit.submit)
app.command("status")(status.status)
app.command("logs")(logs.logs)
app.command("results")(results.results)
app.command("cancel")(cancel.cancel)
app.command("gc")(gc.gc)
app.command("render")(render.render)
app.add_typer(dead.app, name="dead")
app.add_typer(keys.app, name="keys")
app.add_typer(image.app, name="image")
site.app.command("init")(site_init.init)
app.add_typer(site.app, name="site")
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpcrunner {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and end."
    ),
) -> None:
    """Run queued machine-learning experiments on a cluster."""


def main() -> None:
    """Run the command line; HpcrunnerError becomes one line on stderr and its exit code."""
    # What we write is ours alone; Slurm takes the mask over for the job's output file.
    os.umask(0o077)
    try:
        app()
    except HpcrunnerError as error:
        sys.stderr.write(f"hpcrunner: {redact_text(error.line(), prose=True)}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`hpcrunner logs | head`): not an error.
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        sys.stderr.write(redact_text(traceback.format_exc()))
        sys.stderr.write("hpcrunner: a fault in hpcrunner itself; please report the lines above\n")
        sys.exit(HpcrunnerError.exit_code)
