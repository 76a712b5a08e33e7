"""``python -I -m hpcrunner.job BATCH_FOLDER INDEX``: run one attempt on a compute node.

The batch script ends by replacing itself with this. INDEX counts from 1 and comes from the
scheduler's array variable. Everything else comes from the batch's plan; the exit statuses are
listed in ending.py. A folder without a plan may be a probe's: see probe.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.attempt import run_attempt
from hpcrunner.job.events import say
from hpcrunner.request.plan import PlanError

_USAGE = 64  # EX_USAGE
_IO_ERROR = 74  # EX_IOERR


def main(argv: list[str], environ: dict[str, str]) -> int:
    """Run the attempt that the arguments name; returns the exit status."""
    if len(argv) != 2 or not argv[1].isdecimal():
        say("usage: python -I -m hpcrunner.job BATCH_FOLDER INDEX")
        return _USAGE
    folder = Path(argv[0])
    try:
        try:
            return run_attempt(folder, int(argv[1]), environ)
        except PlanError:
            from hpcrunner.job import probe  # of no use to an experiment

            if not probe.is_probe(folder):
                raise
            return probe.run_probe(folder, environ)
    except HpcrunnerError as error:
        say(error.line())
        return error.exit_code
    except OSError as error:
        say(f"{error.filename or argv[0]}: {error.strerror}; can this node write to the spool?")
        return _IO_ERROR


if __name__ == "__main__":
    status = main(sys.argv[1:], dict(os.environ))
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: a download or save that was given up must not hold the job open.
    os._exit(status)
