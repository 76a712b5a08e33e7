"""The claim as files: one maker each, whole or not there, and fenced for good."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hpcrunner.request.claim import (
    Fenced,
    Owner,
    claims,
    fence,
    is_fenced,
    make_claim,
    owner_from,
)

JOB = Owner("n1", 12, "77", 0, 1000.0)


def refuse(code: int) -> object:
    def link(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return link


def test_a_fence_says_whether_anybody_had_started(tmp_path: Path) -> None:
    assert fence(tmp_path / "claims" / "1") is Fenced.BEFORE_START
    make_claim(tmp_path / "claims" / "2", 0, JOB)
    assert fence(tmp_path / "claims" / "2") is Fenced.AFTER_START


def test_a_second_fence_changes_nothing_and_says_the_same(tmp_path: Path) -> None:
    make_claim(tmp_path / "2", 0, JOB)
    for name, said in (("1", Fenced.BEFORE_START), ("2", Fenced.AFTER_START)):
        assert fence(tmp_path / name) is said
        before = sorted(os.listdir(tmp_path))
        assert fence(tmp_path / name) is said
        assert sorted(os.listdir(tmp_path)) == before


def test_a_restart_and_a_fence_at_once_have_one_winner(tmp_path: Path) -> None:
    for round_ in range(20):
        path = tmp_path / str(round_)
        make_claim(path, 0, JOB)
        with ThreadPoolExecutor(1) as threads:
            restart = threads.submit(make_claim, path, 1, replace(JOB, restarts=1))
            fence(path)
            won = restart.result()
        held = claims(path)
        # Either way the fence is last; the restart stands before it or was refused.
        assert is_fenced(held)
        assert len(held) == (3 if won else 2)


def test_a_claim_is_whole_and_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    assert make_claim(tmp_path / "1", 0, JOB)
    assert not make_claim(tmp_path / "1", 0, replace(JOB, job_id="78"))
    assert claims(tmp_path / "1") == [JOB]
    assert os.listdir(tmp_path) == ["1"]
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_without_hard_links_there_is_still_one_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", refuse(code))
    assert make_claim(tmp_path / "1", 0, JOB)
    assert not make_claim(tmp_path / "1", 0, replace(JOB, job_id="78"))
    assert claims(tmp_path / "1") == [JOB]
    assert os.listdir(tmp_path) == ["1"]


def test_any_other_refusal_of_the_file_system_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EDQUOT))
    with pytest.raises(OSError, match="quota"):
        make_claim(tmp_path / "1", 0, JOB)
    assert os.listdir(tmp_path) == []


def test_a_link_that_was_made_and_reported_as_there_already_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)  # NFS: the first answer was lost, the second try finds our own
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert make_claim(tmp_path / "1", 0, JOB)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b'{"host": "n1"}', b"\xff\n"])
def test_a_torn_claim_names_nobody_and_can_be_fenced(tmp_path: Path, content: bytes) -> None:
    assert owner_from(content) is None
    (tmp_path / "1").write_bytes(content)
    assert fence(tmp_path / "1") is Fenced.AFTER_START
    assert (tmp_path / "1").read_bytes() == content


def test_a_claim_that_shows_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def appear(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            make_claim(tmp_path / "1", 0, JOB)

    monkeypatch.setattr("hpcrunner.request.claim.time.sleep", appear)
    assert claims(tmp_path / "1", at_least=1) == [JOB]
    with pytest.raises(OSError, match="cannot be read"):
        claims(tmp_path / "1", at_least=2)
