"""``.studioml_ignore``: what of a folder does not travel.

The client hands the file to ``rsync --exclude-from``, so its patterns mean what rsync(1),
"PATTERN MATCHING RULES", says; ``+`` rules, which bring names back in, are not among them here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

IGNORE_FILE = ".studioml_ignore"
ALWAYS = (".git", "__pycache__", ".venv", IGNORE_FILE)

_GLOB = re.compile(r"\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|\\.|.", re.DOTALL)


def ignored(text: str) -> Callable[[str], bool]:
    """The rule for a file's text: called with a name relative to the folder, ``/`` at a folder's
    end, it says whether that stays at home. What is below such a folder need not be asked for.
    """
    lines = [line for line in text.splitlines() if line and line[0] not in "#;"]
    patterns = [line.removeprefix("- ") for line in lines]
    rules = [(_compiled(p), p.endswith("/")) for p in (*ALWAYS, *patterns)]

    def stays(name: str) -> bool:
        path, is_folder = name.rstrip("/"), name.endswith("/")
        return any(
            rule.fullmatch(path) and (is_folder or not folders_only) for rule, folders_only in rules
        )

    return stays


def _compiled(pattern: str) -> re.Pattern[str]:
    words = "".join(_translated(piece) for piece in _GLOB.findall(pattern.strip("/")))
    return re.compile(("" if pattern.startswith("/") else "(?:.*/)?") + words, re.DOTALL)


def _translated(piece: str) -> str:
    if piece == "**":
        return ".*"
    if piece == "*":
        return "[^/]*"
    if piece == "?":
        return "[^/]"
    if piece[0] == "[" and len(piece) > 2:
        negated = piece[1] in "!^"
        inside = piece[2 if negated else 1 : -1].replace("\\", r"\\").replace("[", r"\[")
        return f"[{'^' if negated else ''}{inside}]" if inside else re.escape(piece)
    return re.escape(piece[-1])
