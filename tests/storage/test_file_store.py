"""Files as a store."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import ArtifactDenied, ArtifactNotFound
from hpcrunner.storage.file import FileStore


def at(path: Path) -> Location:
    return Location("file", str(path))


def put(path: Path, data: bytes, **options: bool) -> None:
    FileStore(**options).put(at(path), io.BytesIO(data), len(data))


def read(path: Path) -> bytes:
    with FileStore().open(at(path)) as found:
        data = found.stream.read()
    assert found.size == len(data)
    return data


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_what_is_put_is_read_back_and_folders_are_made(tmp_path: Path) -> None:
    put(tmp_path / "a/b/ü c.tar", b"content")
    assert read(tmp_path / "a/b/ü c.tar") == b"content"


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    put(tmp_path / "f", b"one")
    put(tmp_path / "f", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert read(tmp_path / "f") == b"two"


def test_a_failing_put_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ConnectionResetError
            return super().read(3)

    put(tmp_path / "f", b"old")
    with pytest.raises(Exception):  # noqa: B017 - whatever the body raises
        FileStore().put(at(tmp_path / "f"), Breaks(b"new content"), 11)
    with pytest.raises(ValueError, match="5 bytes announced, 2 there"):
        FileStore().put(at(tmp_path / "f"), io.BytesIO(b"no"), 5)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert read(tmp_path / "f") == b"old"


def test_a_reader_has_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    put(tmp_path / "f", b"old")
    with FileStore().open(at(tmp_path / "f")) as found:
        put(tmp_path / "f", b"newer")
        assert found.stream.read() == b"old"
    with FileStore().open(at(tmp_path / "f")) as again:
        assert again.etag != found.etag


def test_the_umask_rules_but_others_never_write(tmp_path: Path) -> None:
    os.umask(0o000)
    put(tmp_path / "a/open", b"")
    assert (mode(tmp_path / "a"), mode(tmp_path / "a/open")) == (0o775, 0o664)
    os.umask(0o077)
    put(tmp_path / "b/closed", b"")
    assert (mode(tmp_path / "b"), mode(tmp_path / "b/closed")) == (0o700, 0o600)


def test_a_private_file_is_private_and_stays_so(tmp_path: Path) -> None:
    put(tmp_path / "a/record", b"{}", private=True)
    put(tmp_path / "a/record", b"{...}")
    assert (mode(tmp_path / "a"), mode(tmp_path / "a/record")) == (0o700, 0o600)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "no/folder", tmp_path / "file/inside"):
        with pytest.raises(ArtifactNotFound, match=str(path)):
            read(path)


def test_a_folder_and_a_pipe_are_no_artifacts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactNotFound, match="not a regular file"):
        read(tmp_path / "pipe")
    with pytest.raises(ArtifactNotFound, match="is a folder"):
        read(tmp_path)


def test_a_relative_path_is_refused() -> None:
    for key in ("etc/passwd", "", "/nul\0"):
        with (
            pytest.raises(ArtifactNotFound, match="not an absolute path"),
            FileStore().open(Location("file", key)),
        ):
            pass


def test_what_is_forbidden_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **more: object) -> int:  # modes mean nothing to root
        raise PermissionError(13, "Permission denied")

    (tmp_path / "f").touch()
    monkeypatch.setattr(os, "open", refuse)
    for act in (read, lambda path: put(path, b"x")):
        with pytest.raises(ArtifactDenied, match="permission denied"):
            act(tmp_path / "f")
