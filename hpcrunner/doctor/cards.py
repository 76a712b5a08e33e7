"""How much memory well-known cards have, by what schedulers call them."""

from __future__ import annotations

import re

# GiB of one card, smallest first, by what is found in the type's name. More particular names come
# first; a digit after one would make another card.
_CARDS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"gh200", (96, 144)),
    (r"gb200|b200", (180, 192)),
    (r"h200", (141,)),
    (r"h100[ _-]?nvl", (94,)),
    (r"h100", (80, 96)),
    (r"h800", (80,)),
    (r"h20", (96,)),
    (r"a100", (40, 80)),
    (r"a800", (40, 80)),
    (r"a40", (48,)),
    (r"a30", (24,)),
    (r"a16", (16,)),
    (r"a10", (24,)),
    (r"a2", (16,)),
    (r"l40s?", (48,)),
    (r"l4", (24,)),
    (r"v100", (16, 32)),
    (r"p100", (12, 16)),
    (r"p40", (24,)),
    (r"p4", (8,)),
    (r"t4", (16,)),
    (r"k80", (12,)),
    (r"k40", (12,)),
    (r"a6000", (48,)),
    (r"a5000", (24,)),
    (r"a4000", (16,)),
    (r"6000[ _-]?ada", (48,)),
    (r"rtx[ _-]?pro[ _-]?6000|rtxproserver6000", (96,)),
    (r"rtx[ _-]?8000", (48,)),
    (r"rtx[ _-]?6000", (24,)),
    (r"rtx[ _-]?5000", (16,)),
    (r"5090", (32,)),
    (r"4090|3090|titan[ _-]?rtx", (24,)),
    (r"4080", (16,)),
    (r"3080[ _-]?ti", (12,)),
    (r"3080", (10, 12)),
    (r"2080[ _-]?ti|1080[ _-]?ti", (11,)),
    (r"2080|1080|1070", (8,)),
    (r"titan[ _-]?[xv]", (12,)),
    (r"mi355x?|mi350x?", (288,)),
    (r"mi325x?", (256,)),
    (r"mi300x", (192,)),
    (r"mi300a?", (128,)),
    # Each of the two halves of such a card is a GPU of its own for schedulers.
    (r"mi250x?", (64,)),
    (r"mi210", (64,)),
    (r"mi100", (32,)),
    (r"mi60", (32,)),
    (r"mi50", (16, 32)),
)
_BEFORE = r"(?:(?<![0-9a-z])|(?<=rtx)|(?<=gtx)|(?<=tesla))"
_PART = re.compile(r"\dg\.(\d+)gb")
_SIZE = re.compile(r"[_-](\d{1,3})gb?(?=[_-]|$)")
_AMD = re.compile(r"(?<![a-z])mi\d{2,3}|instinct|radeon|gfx\d")


def memory_known(name: str) -> tuple[int, ...]:
    """The sizes in GiB that such a card is sold with; empty where nobody knows.

    A name may tell: ``a100_3g.20gb`` is a part of a card, ``a100-sxm4-80gb`` a whole one.
    """
    lowered = name.lower()
    if told := _PART.search(lowered) or _SIZE.search(lowered):
        return (int(told[1]),)
    for words, sizes in _CARDS:
        if re.search(rf"{_BEFORE}(?:{words})(?!\d)", lowered):
            return sizes
    return ()


def is_amd(name: str) -> bool:
    """Whether the name is of a card by AMD."""
    return bool(_AMD.search(name.lower()))
