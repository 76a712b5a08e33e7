"""Fuzz one target, guided by coverage. Needs atheris.

libFuzzer ends its process without returning, so it runs in a child, and we remove what we made.

    python tests/fuzz/fuzz.py TARGET [CORPUS FOLDER] [libFuzzer's options]

Without a folder the corpus is the seeds' alone and nothing is kept. See tests/fuzz/README.md.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fakes")]

with atheris.instrument_imports(include=["hpcrunner", "tarfile", "jsonpatch", "jsonpointer"]):
    from seeds import SEEDS, kept, words
    from targets import TARGETS

BOUNDS = ("-timeout=20", "-rss_limit_mb=1500", "-max_len=65536")


def main(arguments: list[str]) -> int:
    name, *options = arguments
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus") as made:
        seeds = Path(made, "seeds")
        seeds.mkdir()
        for number, seed in enumerate([*SEEDS[name], *kept(name)]):
            (seeds / f"{number:03}").write_bytes(seed)
        dictionary = Path(made, "words")
        dictionary.write_text("".join(f"{_quoted(word)}\n" for word in words(name)))
        folders = [option for option in options if not option.startswith("-")]
        rest = [option for option in options if option.startswith("-")]
        corpus = folders or [str(Path(made, "new"))]
        Path(corpus[0]).mkdir(parents=True, exist_ok=True)
        words_of_it = [*BOUNDS, f"-dict={dictionary}", *rest, *corpus, str(seeds)]
        child = os.fork()
        if child == 0:
            atheris.Setup([sys.argv[0], *words_of_it], target)
            atheris.Fuzz()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it too, and says how far it is
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _quoted(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"'


if __name__ == "__main__":
    sys.exit(abs(main(sys.argv[1:])))
