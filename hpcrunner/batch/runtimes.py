"""Which releases of the container programs know the words of the exec line (container.py). Pure.

By the programs' own changelogs and options: Apptainer began at 1.0 with the words of Singularity
3.8, SingularityCE at 3.8. An unknown option ends either of them; an unknown value of ``--no-mount``
is passed over with a warning, which ``--quiet`` takes away.
"""

from __future__ import annotations

import re

Release = tuple[int, ...]

# By the first release that has it.
_APPTAINER = {"--no-eval": (1, 1)}
_SINGULARITY = {"--env-file": (3, 6), "--no-mount": (3, 7), "--no-eval": (3, 10)}
# Without these it runs, and does less than it should.
_BIND_PATHS = {"apptainer": (1, 2), "singularity": (3, 11)}
_CARDS_OF_AMD = {"apptainer": (1, 1, 3), "singularity": (3, 11)}
_SAID = re.compile(r"(?:(apptainer|singularity)[\w-]*\s+version\s+)?v?(\d+(?:\.\d+)+)", re.I)


def release_of(said: str) -> tuple[str, Release] | None:
    """``apptainer`` or ``singularity``, and the release, of a line by ``--version``.

    ``apptainer version 1.4.5-2.el9``, ``singularity-ce version 4.1.5``, ``singularity version
    3.8.7``, and of the oldest ``2.6.1-dist``. None for another line.
    """
    found = _SAID.match(said.strip())
    if found is None:
        return None
    name = (found[1] or "singularity").lower()
    return name, tuple(int(number) for number in found[2].split("."))


def unknown_words(said: str, *, isolation: bool) -> tuple[str, ...]:
    """What of the exec line that release does not know, so that nothing runs with it."""
    found = release_of(said)
    if found is None:
        return ()
    name, release = found
    since = _APPTAINER if name == "apptainer" else _SINGULARITY
    asked = [word for word in since if isolation or word != "--no-mount"]
    return tuple(word for word in asked if release < since[word])


def shortcomings(said: str, *, isolation: bool, amd: bool) -> tuple[str, ...]:
    """What containers get otherwise than they should with that release, each a clause."""
    found = release_of(said)
    if found is None or not isolation:
        return ()
    name, release = found
    clauses = []
    if release < _BIND_PATHS[name]:
        clauses.append("containers see the 'bind path' entries of its configuration all the same")
    if amd and release < _CARDS_OF_AMD[name]:
        clauses.append("not all of AMD's devices are in an isolated container")
    return tuple(clauses)
