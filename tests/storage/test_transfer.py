"""Artifacts as they come to the node and go back, through a real store."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.request.location import Location
from hpcrunner.storage.contract import ArchiveRefused, ArtifactNotFound, DiskBudgetExceeded
from hpcrunner.storage.transfer import as_packed, download, upload


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "experiment"
    made.mkdir()
    return made


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return Location("file", str(tmp_path / "store/experiments/k/retval.tar"))


def test_a_folder_goes_and_comes_back(root: Path, rclone: Any) -> None:
    (root / "modeldir/sub").mkdir(parents=True)
    (root / "modeldir/weights").write_bytes(b"w" * 100_000)
    (root / "modeldir/sub/log").write_text("x")
    place = rclone.at("experiments/k/modeldir.tar")
    went = upload(root / "modeldir", place, root)
    came = download(place, root / "again", True)
    assert (root / "again/weights").read_bytes() == b"w" * 100_000
    assert (root / "again/sub/log").read_text() == "x"
    assert (came.bytes, came.members, came.single) == (100_001, 3, None)
    assert (came.size, came.sha256) == (went.size, went.sha256)
    stored = (rclone.folder / "experiments/k/modeldir.tar").read_bytes()
    assert came.sha256 == hashlib.sha256(stored).hexdigest()
    assert came.etag


def test_a_file_comes_in_a_folder_and_goes_back_as_a_file(root: Path, place: Location) -> None:
    (root / "retval").write_bytes(b"pickle")
    upload(root / "retval", place, root)
    (root / "retval").unlink()
    came = download(place, root / "retval", True)
    assert (root / "retval/retval").read_bytes() == b"pickle"
    assert came.single == "retval"
    upload(as_packed(root / "retval"), place, root, newest_mtime_floor=4e9)
    with tarfile.open(place.key) as tar:
        assert [(m.name, m.mtime) for m in tar] == [("./retval", 4e9)]


def test_only_a_lone_file_of_its_folders_name_stands_for_the_folder(root: Path) -> None:
    folder = root / "output"
    assert as_packed(folder) == folder
    folder.mkdir()
    assert as_packed(folder) == folder
    (folder / "other").touch()
    assert as_packed(folder) == folder
    (folder / "output").touch()
    assert as_packed(folder) == folder
    (folder / "other").unlink()
    assert as_packed(folder) == folder / "output"
    (folder / "output").unlink()
    (folder / "output").mkdir()
    assert as_packed(folder) == folder
    (folder / "output").rmdir()
    (folder / "output").symlink_to("/etc/passwd")
    assert as_packed(folder) == folder


def test_null_for_unpack_means_an_archive(root: Path, place: Location) -> None:
    (root / "workspace").mkdir()
    upload(root / "workspace", place, root)
    assert download(place, root / "w", None).members == 0
    assert (root / "w").is_dir()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/public/url.bin?versionId=1", "url.bin"),
        ("/public/a%20b.bin", "a b.bin"),
        ("/", "url"),
        ("/..", "url"),
        ("/x%2F..%2F..%2Fevil", "evil"),
        ("/" + "x" * 300, "url"),
    ],
)
def test_what_is_not_unpacked_keeps_its_name(root: Path, faulty: Any, path: str, name: str) -> None:
    faulty.content = b"content"
    came = download(faulty.http(path), root / "url", False)
    assert [p.name for p in (root / "url").iterdir()] == [name]
    assert (root / "url" / name).read_bytes() == b"content"
    assert (came.bytes, came.size, came.single) == (7, 7, None)
    assert came.sha256 == hashlib.sha256(b"content").hexdigest()


def test_an_archive_that_is_not_to_be_unpacked_stays_one(root: Path, place: Location) -> None:
    upload(root, place, root)
    download(place, root / "tag", False)
    assert tarfile.is_tarfile(root / "tag/retval.tar")


def test_the_budget_holds_for_plain_files(root: Path, faulty: Any) -> None:
    faulty.content = b"x" * 1000
    assert download(faulty.http(), root / "a", False, budget=1000).bytes == 1000
    with pytest.raises(DiskBudgetExceeded):
        download(faulty.http(), root / "b", False, budget=999)
    assert not (root / "b").exists()


@pytest.mark.parametrize("unpack", [True, False])
def test_a_download_stops_at_its_budget(root: Path, rclone: Any, unpack: bool) -> None:
    (root / "d").mkdir()
    (root / "d/f").write_bytes(os.urandom(1 << 20))
    place = rclone.at("budget.tar")
    packed = upload(root / "d", place, root)
    size = 1 << 20 if unpack else packed.size
    for number, budget in enumerate((size, size + 1, 2 * size)):
        assert download(place, root / f"ok{number}", unpack, budget=budget).bytes == size
    for number, budget in enumerate((size - 1, size // 2, 0)):
        folder = root / f"no{number}"
        with pytest.raises(DiskBudgetExceeded):
            download(place, folder, unpack, budget=budget)
        assert sum(f.stat().st_size for f in folder.glob("*")) <= budget


def test_the_budget_holds_for_archives(root: Path, place: Location) -> None:
    (root / "d").mkdir()
    (root / "d/f").write_bytes(b"x" * 1000)
    upload(root / "d", place, root)
    with pytest.raises(DiskBudgetExceeded, match="store/experiments"):
        download(place, root / "b", True, budget=999)


def test_an_error_page_is_refused_with_its_address(root: Path, faulty: Any) -> None:
    faulty.content = b"<html>please log in</html>"
    with pytest.raises(ArchiveRefused, match=r"http://127.* not an archive but an HTML page"):
        download(faulty.http("/data.tar?key=hidden"), root / "a", True)


def test_a_broken_connection_does_not_break_an_unpacking(
    root: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("f")
        info.size = 3 << 20
        tar.addfile(info, io.BytesIO(bytes(range(256)) * (12 << 10)))
    faulty.content = buffer.getvalue()
    faulty.cut(100, len(faulty.content) // 2)
    download(faulty.s3(), root / "a", True)
    assert (root / "a/f").read_bytes() == bytes(range(256)) * (12 << 10)


def test_a_missing_artifact_leaves_nothing(root: Path, place: Location) -> None:
    with pytest.raises(ArtifactNotFound):
        download(place, root / "a", True)
    assert list(root.iterdir()) == []


def test_what_is_not_there_replaces_nothing(root: Path, place: Location) -> None:
    (root / "f").write_text("kept")
    upload(root / "f", place, root)
    with pytest.raises(FileNotFoundError):
        upload(root / "missing", place, root)
    assert download(place, root / "again", True).single == "f"


def test_nothing_waits_in_the_scratch_folder(root: Path, place: Location) -> None:
    scratch = root / "scratch"
    scratch.mkdir()
    (root / "f").write_text("x")
    upload(root / "f", place, scratch)
    assert list(scratch.iterdir()) == []


def test_no_store_client_is_loaded_before_it_is_needed() -> None:
    code = """
import sys
import hpcrunner.storage.transfer, hpcrunner.storage.s3, hpcrunner.storage.gcs
import hpcrunner.storage.http, hpcrunner.storage.file, hpcrunner.storage.stores
heavy = {"boto3", "botocore", "urllib3", "requests", "google.cloud.storage", "pydantic", "yaml"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
