"""The environments that leave this process: allow-lists, so that nothing leaks by default.

The gateway's own environment may hold secrets, and the variables of an allocation it was
started in (``SLURM_*``, ``SBATCH_*``) would bend every command and job.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from hpcrunner.request.scheduler_words import CONFIGURATION

_PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin"
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", *CONFIGURATION)


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """All that a job may inherit from the process that submits it.

    Who the user is comes from the password database where the variables are missing, as they
    are under cron.
    """
    kept = {name: environ[name] for name in _KEPT if environ.get(name)}
    kept.setdefault("PATH", _PLAIN_PATH)
    kept["LANG"] = "C.UTF-8"
    if not all(name in kept for name in ("HOME", "USER", "LOGNAME", "SHELL")):
        try:
            entry = pwd.getpwuid(os.getuid())
        except KeyError:
            return kept
        kept.setdefault("HOME", entry.pw_dir)
        kept.setdefault("USER", entry.pw_name)
        kept.setdefault("LOGNAME", entry.pw_name)
        kept.setdefault("SHELL", entry.pw_shell)
    return kept
