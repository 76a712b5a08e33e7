"""Private keys that run over lines, as logs of many kinds have them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hpcrunner.request.keyblock import LONGEST, KeyLines
from hpcrunner.request.redact import redact_text

KEY = (
    ec.generate_private_key(ec.SECP521R1())
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"sesame"),  # with RFC 1421's headers
    )
    .decode()
)
BODY = [line for line in KEY.splitlines() if line and "-" * 5 not in line and ":" not in line]


def shown(text: str) -> list[str]:
    keys = KeyLines()
    return [line for line in map(keys.shown, text.splitlines()) if line is not None]


def test_a_whole_key_becomes_one_mask() -> None:
    assert len(BODY) > 3 and "Proc-Type: " in KEY and "\n\n" in KEY
    assert shown(f"before\nkey={KEY}after\n{KEY}") == ["before", "key=****", "after", "****"]


@pytest.mark.parametrize(
    "form",
    [
        "    {}",
        "{}\r",
        '"{}\\n"',
        "    '{}',",
        "2026-01-01 12:00:00,123 INFO [rank 0] {}",
    ],
)
def test_what_stands_around_the_lines_of_a_key_does_not_save_them(form: str) -> None:
    lines = [form.format(line) for line in KEY.splitlines() if len(line) >= 28]
    told = shown("\n".join(["first", *lines, "train: step 1"]))
    assert [told[0], told[-1], len(told)] == ["first", "train: step 1", 3]
    assert told[1].endswith("****")
    assert not any(part in line for part in BODY for line in told)


def test_a_beginning_alone_hides_nothing_but_itself() -> None:
    begin = KEY.splitlines()[0]
    assert shown(f"see {begin}\nepoch 1 of 2\n{begin}\n{{}}") == [
        *("see ****", "epoch 1 of 2", "****", "{}")
    ]


def test_a_key_without_an_end_hides_so_much_and_no_more() -> None:
    told = shown("\n".join([KEY.splitlines()[0], *["x" * 63] * (LONGEST // 32)]))
    assert told[0] == "****"
    assert abs(len(told) - LONGEST // 64) < 5
    assert len(shown(f"{KEY.splitlines()[0]} {KEY.splitlines()[-1]}\n" * 3)) == 3


@pytest.mark.parametrize("lost", range(1, 5))
def test_of_a_key_whose_beginning_is_cut_off_the_rest_is_masked_too(lost: int) -> None:
    rest = "\n".join([*BODY[lost:], KEY.splitlines()[-1]])
    assert redact_text(f"{rest} and\nmore") == "**** and\nmore"
    assert redact_text(f"epoch: 1\n{rest}\n") == "epoch: 1\n****\n"


def test_keys_of_pgp_are_keys() -> None:
    key = f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: x\n\n{BODY[0]}\n=abcd\n"
    key += "-----END PGP PRIVATE KEY BLOCK-----"
    assert shown(f"{key}\nend") == ["****", "end"]
    assert redact_text(f"{key}\nend") == "****\nend"
