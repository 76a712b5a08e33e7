"""Start a module of this package in a fresh interpreter that has a scrubbed environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

# -I keeps user site-packages and PYTHONPATH out, and hpcrunner may live in either. So the
# child is given the import path of this process, less the entries that depend on a folder.
_BOOT = (
    "import runpy, sys;"
    "module, number, *rest = sys.argv[1:];"
    "sys.path[:] = rest[:int(number)];"
    "sys.argv[1:] = rest[int(number):];"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def module_argv(module: str, *arguments: str) -> list[str]:
    """The words that run ``module`` with ``arguments`` as this interpreter would."""
    path = [entry for entry in sys.path if Path(entry).is_absolute()]
    return [sys.executable, "-I", "-c", _BOOT, module, str(len(path)), *path, *arguments]


_BOOT_OTHER = (
    "import runpy, sys;"
    "module, place = sys.argv[1:3];"
    "sys.path.append(place);"
    "sys.argv[1:] = sys.argv[3:];"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def other_argv(python: str, module: str) -> list[str]:
    """The words that run ``module`` of this package in another interpreter, with its packages.

    The module may import no more than that one has, and the standard library.
    """
    place = str(Path(__file__).resolve().parents[2])
    return [python, "-I", "-c", _BOOT_OTHER, module, place]


def interpreter_environment(base: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """``base`` with what the interpreter itself may need to find its own libraries.

    The module that is started takes it out again before anything else inherits it.
    """
    library_path = environ.get("LD_LIBRARY_PATH")
    return {**base, **({"LD_LIBRARY_PATH": library_path} if library_path else {})}
