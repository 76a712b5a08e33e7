"""Packing: what the client reads, of folders that are in use."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import subprocess
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcrunner.storage import pack as pack_module
from hpcrunner.storage.pack import content_signature, pack
from hpcrunner.storage.unpack import unpack


def packed(source: Path, **more: object) -> bytes:
    buffer = io.BytesIO()
    done = pack(source, buffer, **more)
    data = buffer.getvalue()
    assert done.size == len(data)
    assert done.sha256 == hashlib.sha256(data).hexdigest()
    return data


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


def names(data: bytes) -> list[str]:
    return [m.name for m in members(data)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "weird 'name\n;"
    made.mkdir()
    return made


def test_a_folder_has_its_entries_by_bare_names(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/b").write_text("b")
    (folder / "train.py").write_text("a")
    assert names(packed(folder)) == ["sub", "sub/b", "train.py"]


def test_a_folder_of_one_file_is_still_a_folder(folder: Path) -> None:
    (folder / "only").write_text("x")
    assert names(packed(folder)) == ["only"]


def test_a_file_is_one_member_that_begins_with_dot_slash(folder: Path) -> None:
    (folder / "retval").write_text("x")
    assert names(packed(folder / "retval")) == ["./retval"]
    assert names(packed(folder / "retval", single_name="other")) == ["./other"]


def test_clients_before_0_0_39_have_it_the_other_way_round(folder: Path) -> None:
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    assert names(packed(folder / "f", old_client=True)) == ["f"]
    assert names(packed(folder, old_client=True)) == ["./d", "./f"]


def test_an_empty_folder_is_an_empty_tar(folder: Path) -> None:
    assert names(packed(folder)) == []


def test_what_is_not_there_cannot_be_packed(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        packed(folder / "missing")


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    made = []
    for name, order in (("a", "xyz"), ("b", "zyx")):
        (tmp_path / name).mkdir()
        for letter in order:
            file = tmp_path / name / letter
            file.write_text(letter)
            os.utime(file, (1e9, 1e9))
        os.chown(tmp_path / name / "x", 1234 if name == "a" else 4321, -1)
        made.append(packed(tmp_path / name))
    assert made[0] == made[1]


def test_the_digest_of_the_content_knows_no_times(folder: Path) -> None:
    (folder / "a").write_text("x")
    before = pack(folder, io.BytesIO())
    os.utime(folder / "a", (1, 1))
    touched = pack(folder, io.BytesIO())
    assert touched.content == before.content
    assert touched.sha256 != before.sha256
    seen = {before.content}
    for change in (
        lambda: (folder / "a").write_text("y"),
        lambda: (folder / "a").chmod(0o700),
        lambda: (folder / "a").rename(folder / "b"),
        lambda: (folder / "a").symlink_to("b"),
        lambda: (folder / "d").mkdir(),
    ):
        change()
        seen.add(pack(folder, io.BytesIO()).content)
    assert len(seen) == 6


def test_no_owner_is_told(folder: Path) -> None:
    (folder / "f").write_text("x")
    (member,) = members(packed(folder))
    assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


def test_times_and_modes_are_kept(folder: Path) -> None:
    (folder / "f").write_text("x")
    (folder / "f").chmod(0o4751)
    os.utime(folder / "f", ns=(1_700_000_000_123_456_789,) * 2)
    (member,) = members(packed(folder))
    assert member.mode == 0o751
    assert member.mtime == pytest.approx(1_700_000_000.1234567, abs=1e-6)


def test_no_member_is_older_than_the_floor(folder: Path) -> None:
    for name, when in (("old", 1000), ("new", 4_000_000_000)):
        (folder / name).write_text("x")
        os.utime(folder / name, (when, when))
    data = packed(folder, newest_mtime_floor=2_000_000_000.5)
    assert {m.name: m.mtime for m in members(data)} == {
        "old": 2_000_000_000.5,
        "new": 4_000_000_000,
    }


def test_sockets_and_pipes_are_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert names(packed(folder)) == []


def test_a_single_pipe_cannot_be_packed(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        packed(folder / "pipe")


def test_links_stay_links_and_those_that_lead_out_are_left_out(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d/f").write_text("x")
    (folder / "d/up").symlink_to("../d/f")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "inside").symlink_to((folder / "d/f").resolve())
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "beside").symlink_to("../x")
    (folder / "round").symlink_to(f"../{folder.name}/d/f")
    buffer = io.BytesIO()
    done = pack(folder, buffer)
    links = {m.name: m.linkname for m in members(buffer.getvalue()) if m.issym()}
    assert links == {"d/up": "../d/f", "dangling": "nowhere", "inside": "d/f"}
    assert [line.partition(":")[0] for line in done.left_out] == ["beside", "outside", "round"]


def test_what_may_not_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "locked").write_text("x")
    (folder / "open").write_text("y")
    real = os.open

    def refuse(path: object, *more: object, **named: object) -> int:
        if str(path).endswith("locked"):  # root may read everything, so modes do not help here
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **named)

    monkeypatch.setattr(pack_module.os, "open", refuse)
    buffer = io.BytesIO()
    done = pack(folder, buffer)
    assert names(buffer.getvalue()) == ["open"]
    assert done.left_out == ("locked: Permission denied",)


def test_hard_links_become_files(folder: Path) -> None:
    (folder / "a").write_text("x")
    os.link(folder / "a", folder / "b")
    assert [m.isreg() for m in members(packed(folder))] == [True, True]


def test_leave_out_is_asked_by_relative_names(folder: Path) -> None:
    (folder / "keep").mkdir()
    (folder / "keep/x.pyc").write_text("")
    (folder / ".git/objects").mkdir(parents=True)
    asked: list[str] = []

    def leave_out(name: str) -> bool:
        asked.append(name)
        return name == ".git/"

    assert names(packed(folder, leave_out=leave_out)) == ["keep", "keep/x.pyc"]
    assert asked == [".git/", "keep/", "keep/x.pyc"]


def test_folders_deeper_than_the_stack_are_packed_and_unpacked(tmp_path: Path) -> None:
    deep = str(tmp_path / "deep")
    for _ in range(1200):
        os.mkdir(deep)  # noqa: PTH102 - pathlib itself gives up here
        deep += "/d"
    try:
        done = unpack(io.BytesIO(packed(tmp_path / "deep")), tmp_path / "again")
        assert done.members == 1199
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "deep", tmp_path / "again"], check=True)


class Meanwhile(io.BytesIO):
    """A sink during whose writes something happens to the folder."""

    def __init__(self, happens) -> None:
        super().__init__()
        self._happens = happens

    def write(self, data) -> int:
        self._happens()
        return super().write(data)


def test_files_that_vanish_shrink_and_grow_meanwhile_leave_a_good_tar(folder: Path) -> None:
    for name in "abcd":
        (folder / name).write_bytes(name.encode() * 3_000_000)

    def happens() -> None:
        (folder / "c").unlink(missing_ok=True)
        os.truncate(folder / "a", 1_500_000)
        with (folder / "b").open("ab") as growing:
            growing.write(b"more")

    sink = Meanwhile(happens)
    done = pack(folder, sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as tar:
        held = {m.name: tar.extractfile(m).read() for m in tar}
    assert sorted(held) == ["a", "b", "d"]
    assert len(held["a"]) == 3_000_000
    assert held["a"].rstrip(b"\0").strip(b"a") == b""
    assert set(held["a"]) == {0, ord("a")}
    assert held["b"].startswith(b"b" * 3_000_000)
    assert held["d"] == b"d" * 3_000_000
    assert done.left_out == ()


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(folder: Path) -> None:
    (folder / "a").write_bytes(b"a" * 3_000_000)
    (folder / "b").write_text("b")

    def happens() -> None:
        (folder / "b").unlink()
        (folder / "b").symlink_to("/etc/passwd")

    sink = Meanwhile(happens)
    pack(folder, sink)
    assert b"root:" not in sink.getvalue()


def test_packing_goes_on_while_a_training_log_is_written(folder: Path) -> None:
    stop = threading.Event()

    def train() -> None:
        with (folder / "log").open("w") as log:
            step = 0
            while not stop.is_set():
                log.write(f"step {step}\n")
                log.flush()
                (folder / f"ckpt-{step}").write_bytes(b"x" * 1000)
                (folder / f"ckpt-{step - 3}").unlink(missing_ok=True)
                step += 1

    training = threading.Thread(target=train)
    training.start()
    try:
        for _ in range(20):
            members(packed(folder))
    finally:
        stop.set()
        training.join()


def test_gnu_tar_reads_it(folder: Path, tmp_path: Path) -> None:
    (folder / ("long" * 40)).mkdir()
    (folder / ("long" * 40) / ("ü" * 60)).write_text("x")
    (tmp_path / "x.tar").write_bytes(packed(folder))
    listing = subprocess.run(
        ["tar", "-tf", tmp_path / "x.tar", "--quoting-style=literal"],
        capture_output=True,
        check=True,
    )
    assert listing.stdout.decode().split() == ["long" * 40 + "/", "long" * 40 + "/" + "ü" * 60]
    assert listing.stderr == b""


# --- round trip ------------------------------------------------------------------------------

NAME = st.binary(min_size=1, max_size=40).filter(
    lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b"..")
)
TREE = st.recursive(
    st.one_of(st.binary(max_size=2000), st.integers(0, 3).map(lambda n: n * 70_000)),
    lambda inner: st.dictionaries(NAME, inner, max_size=4),
    max_leaves=12,
)


def build(path: Path, content: object) -> None:
    if isinstance(content, dict):
        path.mkdir()
        for name, inner in content.items():
            build(path / os.fsdecode(name), inner)
    else:
        path.write_bytes(content if isinstance(content, bytes) else os.urandom(content))
    # Whole milliseconds, which no rounding in ``state`` can send either way.
    when = path.stat().st_mtime_ns // 10**6 * 10**6
    os.utime(path, ns=(when, when))


def state(root: Path) -> dict[Path, tuple]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        kind = stat.S_IFMT(status.st_mode)
        found[path.relative_to(root)] = (kind, round(status.st_mtime, 4), content)
    return found


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(NAME, TREE, max_size=5))
def test_what_is_packed_is_unpacked_the_same(tree: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as place:
        build(Path(place, "in"), tree)
        done = unpack(io.BytesIO(packed(Path(place, "in"))), Path(place, "out"))
        before, after = state(Path(place, "in")), state(Path(place, "out"))
        assert before == after
        assert done.bytes == sum(len(content or b"") for _, _, content in after.values())
        assert done.single is None


@settings(max_examples=30, deadline=None)
@given(name=NAME, content=st.binary(max_size=5000))
def test_a_single_file_is_unpacked_under_its_name(name: bytes, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        file, out = Path(place, os.fsdecode(name)), Path(place, "x" * 41)
        build(file, content)
        done = unpack(io.BytesIO(packed(file)), out)
        assert done.single == file.name
        assert [(p.name, p.read_bytes()) for p in out.iterdir()] == [(file.name, content)]


# --- signature -------------------------------------------------------------------------------


def test_the_signature_stays_where_nothing_changes(folder: Path) -> None:
    (folder / "a").write_text("x")
    assert content_signature(folder) == content_signature(folder)
    assert content_signature(folder).digest
    assert content_signature(folder / "a") != content_signature(folder)


def written_with_its_old_time(file: Path) -> None:
    """Other bytes of the same length, and the time that the file had before."""
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock has ticked
        file.write_text("y")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "new").write_text(""),
        lambda f: (f / "d/a").write_text("longer than it was"),
        lambda f: os.utime(f / "d/a", ns=(1, 1)),
        lambda f: written_with_its_old_time(f / "d/a"),
        lambda f: (f / "d/a").rename(f / "d/b"),
        lambda f: (f / "d/a").unlink(),
        lambda f: ((f / "l").unlink(), (f / "l").symlink_to("d/a")),
    ],
)
def test_the_signature_shows_every_change(folder: Path, change) -> None:
    (folder / "d").mkdir()
    (folder / "d/a").write_text("x")
    (folder / "l").symlink_to("d")
    before = content_signature(folder)
    change(folder)
    assert content_signature(folder) != before


def test_what_is_not_there_has_no_signature(folder: Path) -> None:
    assert content_signature(folder / "missing").digest == ""


@pytest.mark.parametrize("which", ["folder", "inner", "file"])
def test_nothing_outside_is_read_through_what_becomes_a_link_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "model" / "inner", outside / "inner"):
        folder.mkdir(parents=True)
        (folder / "key").write_text("s3cr3t" if folder.is_relative_to(outside) else "mine")
    swapped = {"folder": root / "model", "inner": root / "model" / "inner", "file": None}[which]
    source = root / "model"
    if swapped is None:
        source = root / "single"
        source.symlink_to(outside / "inner" / "key")
    real = os.open

    def late(path: object, *words: int, **more: object) -> int:
        if swapped is not None and str(path) == str(swapped) and not swapped.is_symlink():
            swapped.rename(root / "moved")
            swapped.symlink_to(outside if which == "folder" else outside / "inner")
        return real(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", late)
    into = io.BytesIO()
    try:
        packed = pack(source, into, within=root)
    except OSError as error:
        assert "leads out" in str(error) and which != "inner"
    else:
        assert which == "inner" and "leads out" in packed.left_out[0]
    assert b"s3cr3t" not in into.getvalue()
