"""Archives that would do harm: nothing may leave the folder, fill the disk, or eat the memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcrunner.storage import costs, tree, unpack, unpack_zip, xz
from hpcrunner.storage.contract import ArchiveRefused, DiskBudgetExceeded
from hpcrunner.storage.unpack import Unpacked

MB = 1 << 20


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: object):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    for key, value in more.items():
        setattr(info, key, value)
    return info


def folder(name: str) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, target)


def tar(*members: tarfile.TarInfo, content: bytes = b"evil") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for info in members:
            if info.isreg():
                info.size = len(content)
            out.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Path]:
    """The folder to unpack into; what stands beside it must stay as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    yield tmp_path / "box"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "box") == ["outside"]
    assert [p.name for p in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"
    root = os.path.realpath(tmp_path / "box")
    for found in (tmp_path / "box").rglob("*"):
        assert os.path.realpath(found).startswith(f"{root}/") or os.path.realpath(found) == root


def run(data: bytes, box: Path, budget: int | None = None) -> Unpacked:
    return unpack.unpack(io.BytesIO(data), box, budget=budget, where="s3://h/b/k")


@pytest.mark.parametrize(
    "name",
    [
        "../outside/new",
        "a/../../outside/new",
        "a/b/../../../outside/new",
        "..",
        "./../outside/x",
        "../box/x",
    ],
)
def test_a_member_that_climbs_out_is_refused(box: Path, name: str) -> None:
    with pytest.raises(ArchiveRefused, match=r"^s3://h/b/k: member .* climbs out"):
        run(tar(member(name)), box)


def test_a_folder_that_climbs_out_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="climbs out"):
        run(tar(folder("../outside/new")), box)


def test_an_absolute_name_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="absolute"):
        run(tar(member(str(box.parent / "outside/new"))), box)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside/precious", ".."])
def test_a_link_that_leads_out_is_refused(box: Path, target: str) -> None:
    with pytest.raises(ArchiveRefused, match="leads out"):
        run(tar(link("l", target)), box)
    assert not (box / "l").is_symlink()


def test_a_link_with_an_absolute_target_inside_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="leads out"):
        run(tar(member("f"), link("l", str(box / "f"))), box)


def test_links_that_lead_out_only_together_are_refused(box: Path) -> None:
    # By its words, up stays inside: deep/to-root/.. looks like deep.
    chain = [folder("deep"), link("deep/to-root", ".."), link("up", "deep/to-root/..")]
    for members in (chain, [chain[0], chain[2], chain[1]]):
        with pytest.raises(ArchiveRefused, match="leads out"):
            run(tar(*members), box)
        assert not (box / "up").is_symlink()


def chain(count: int) -> list[tarfile.TarInfo]:
    return [link(f"l{n}", f"l{n - 1}") for n in range(count, 0, -1)]


def test_a_chain_of_links_is_followed_as_far_as_the_kernel_does(box: Path) -> None:
    run(tar(member("l0"), *chain(tree.MOST_LINKS_IN_A_ROW)), box)
    assert (box / "l40").read_bytes() == b"evil"
    with pytest.raises(ArchiveRefused, match="leads out"):
        run(tar(*chain(tree.MOST_LINKS_IN_A_ROW + 1)), box)


def test_a_long_chain_of_links_costs_no_more_than_each_of_them(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "MOST_STEPS", 2000 * (tree.MOST_LINKS_IN_A_ROW + 1))
    with pytest.raises(ArchiveRefused, match="leads out"):
        run(tar(*chain(2000)), box)


def test_links_in_a_circle_are_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="leads out"):
        run(tar(link("a", "b"), link("b", "a")), box)


def test_a_member_is_not_written_through_a_link(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="passes through"):
        run(tar(folder("d"), link("l", "d"), member("l/x")), box)
    assert not (box / "d/x").exists()


def test_a_member_is_not_written_through_a_chain_of_links(box: Path) -> None:
    members = (folder("d"), link("d/r", ".."), link("up", "d/r/.."), member("up/outside/new"))
    with pytest.raises(ArchiveRefused):
        run(tar(*members), box)


def test_a_link_that_was_there_before_is_not_followed(box: Path) -> None:
    box.mkdir()
    (box / "l").symlink_to("../outside")
    with pytest.raises(ArchiveRefused, match="passes through"):
        run(tar(member("l/new")), box)
    with pytest.raises(ArchiveRefused, match="passes through"):
        run(tar(folder("l")), box)
    run(tar(member("l"), content=b"mine"), box)
    assert (box / "l").read_bytes() == b"mine"
    assert not (box / "l").is_symlink()


def test_a_file_replaces_a_link_and_is_not_written_through_it(box: Path) -> None:
    run(tar(member("f"), link("l", "f"), member("l"), content=b"new"), box)
    assert not (box / "l").is_symlink()


@pytest.mark.parametrize(
    "target", ["../outside/precious", "/etc/passwd", "d/../../outside/precious"]
)
def test_a_hard_link_out_is_refused(box: Path, target: str) -> None:
    with pytest.raises(ArchiveRefused):
        run(tar(folder("d"), hard("h", target)), box)
    assert not (box / "h").exists()


def test_a_hard_link_through_a_link_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused):
        run(tar(member("f"), link("l", "f"), hard("h", "l")), box)


def test_a_hard_link_to_nothing_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="which is not in it"):
        run(tar(hard("h", "missing/file")), box)


def test_a_hard_link_becomes_a_file_of_its_own_and_counts(box: Path) -> None:
    data = tar(member("d/f"), hard("h", "d/f"), content=b"x" * 1000)
    assert run(data, box).bytes == 2000
    assert (box / "h").read_bytes() == b"x" * 1000
    assert (box / "h").stat().st_ino != (box / "d/f").stat().st_ino
    with pytest.raises(DiskBudgetExceeded):
        run(data, box, budget=1999)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (b"Z", "of an unknown kind"),
        (b"V", "of an unknown kind"),
    ],
)
def test_what_is_neither_file_folder_nor_link_is_refused(
    box: Path, kind: bytes, words: str
) -> None:
    with pytest.raises(ArchiveRefused, match=words):
        run(tar(member("x", kind)), box)


def test_set_id_bits_and_writing_for_others_go(box: Path) -> None:
    run(tar(member("s", mode=0o7777), member("d/w", mode=0o4766)), box)
    assert stat.S_IMODE((box / "s").stat().st_mode) & ~0o755 == 0
    assert stat.S_IMODE((box / "d/w").stat().st_mode) & ~0o744 == 0


def test_what_the_owner_could_not_read_becomes_readable(box: Path) -> None:
    members = (member("locked", tarfile.DIRTYPE, mode=0), member("locked/f", mode=0))
    run(tar(*members), box)
    assert stat.S_IMODE((box / "locked").stat().st_mode) & 0o700 == 0o700
    assert stat.S_IMODE((box / "locked/f").stat().st_mode) & 0o600 == 0o600


def test_owners_of_the_archive_mean_nothing(box: Path) -> None:
    run(tar(member("f", uid=4711, gid=4712)), box)
    assert (box / "f").stat().st_uid == os.geteuid()


@pytest.mark.parametrize("name", ["n\0ul", "x" * 256, "a/" * 3000 + "x"])
def test_names_that_no_file_can_have_are_refused(box: Path, name: str) -> None:
    info = member("x", pax_headers={"path": name})
    info.size = 0
    with pytest.raises(ArchiveRefused):
        run(tar(info), box)


def test_a_file_in_the_way_of_a_folder_is_refused(box: Path) -> None:
    for members in ((member("x"), member("x/y")), (member("x/y"), member("x"))):
        with pytest.raises(ArchiveRefused, match="passes through"):
            run(tar(*members), box)


# --- measure ---------------------------------------------------------------------------------


def test_the_budget_is_kept_while_writing(box: Path) -> None:
    data = tar(member("a"), member("b"), content=b"x" * MB)
    assert run(data, box, budget=2 * MB).bytes == 2 * MB
    with pytest.raises(DiskBudgetExceeded, match="hdd"):
        run(data, box, budget=2 * MB - 1)
    assert sum(f.stat().st_size for f in box.iterdir()) <= 2 * MB


def test_a_budget_of_nothing_takes_empty_files(box: Path) -> None:
    assert run(tar(member("a"), content=b""), box, budget=0).members == 1


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_decompression_bomb_stops_at_the_budget(box: Path, compress) -> None:
    bomb = compress(tar(member("zeros"), content=bytes(16 * MB)))
    assert len(bomb) < MB
    with pytest.raises(DiskBudgetExceeded):
        run(bomb, box, budget=MB)
    assert (box / "zeros").stat().st_size <= MB


def test_a_zip_bomb_stops_at_the_budget(box: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("zeros", bytes(64 * MB))
    with pytest.raises(DiskBudgetExceeded):
        run(buffer.getvalue(), box, budget=4 * MB)
    assert (box / "zeros").stat().st_size <= 4 * MB


def test_the_zip_itself_counts_while_it_waits(box: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        out.writestr("noise", os.urandom(MB))
    with pytest.raises(DiskBudgetExceeded):
        run(buffer.getvalue(), box, budget=MB + 1000)
    assert run(buffer.getvalue(), box, budget=3 * MB).bytes == MB


def test_sparse_members_count_with_their_holes(box: Path, tmp_path: Path) -> None:
    data = gnu_sparse(10 * MB)
    with pytest.raises(DiskBudgetExceeded):
        run(data, box, budget=9 * MB)
    assert run(data, box, budget=10 * MB).bytes == 10 * MB


@pytest.mark.parametrize("size", [1 << 50, 1 << 62, (1 << 63) - 1, 1 << 70])
def test_a_sparse_member_of_no_possible_size_is_refused(box: Path, size: int) -> None:
    with pytest.raises((ArchiveRefused, DiskBudgetExceeded)):
        run(gnu_sparse(size), box)
    with pytest.raises((ArchiveRefused, DiskBudgetExceeded)):
        run(gnu_sparse(size), box, budget=MB)


def gnu_sparse(size: int) -> bytes:
    """One member of ``size`` bytes, all hole but 512 bytes in its middle (GNU's PAX format 1.0)."""
    table = f"2\n{size // 2}\n512\n{size}\n0\n".encode().ljust(512, b"\0")
    info = member("GNUSparseFile.0/sparse")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": str(size),
    }
    return tar(info, content=table + b"x" * 512)


def test_a_sparse_member_comes_whole(box: Path) -> None:
    run(gnu_sparse(MB), box)
    data = (box / "sparse").read_bytes()
    assert data == bytes(MB // 2) + b"x" * 512 + bytes(MB // 2 - 512)


def test_more_members_than_the_bound_are_refused(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "MOST_MEMBERS", 10)
    assert run(tar(*[member(f"{n}", size=0) for n in range(10)]), box).members == 10
    with pytest.raises(ArchiveRefused, match="more than 10 members"):
        run(tar(*[member(f"{n}") for n in range(11)]), box)
    with pytest.raises(ArchiveRefused, match="more than 10 members"):
        run(tar(member("a/b/c/d/e/f/g/h/i/j/k")), box)


def test_many_members_do_not_pile_up_in_memory(box: Path) -> None:
    def piece(number: int) -> bytes:
        return member(f"{'long' * 20}/{number}").tobuf(tarfile.USTAR_FORMAT)

    data = io.BytesIO(b"".join(map(piece, range(3000))) + bytes(1024))
    tracemalloc.start()
    try:
        assert unpack.unpack(data, box).members == 3001
        assert tracemalloc.get_traced_memory()[1] < 2.8 * MB  # each TarInfo has half a kilobyte
    finally:
        tracemalloc.stop()


def test_names_that_must_be_remembered_are_bounded(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "MOST_NAMES", 3000)
    run(tar(*[folder(f"d{n}") for n in range(20)]), box)
    for kind in (lambda n: folder(f"{'x' * 200}{n}"), lambda n: link(f"{'x' * 200}{n}", "f")):
        shutil.rmtree(box)
        with pytest.raises(ArchiveRefused, match="remembered"):
            run(tar(*map(kind, range(20))), box)


def test_ways_to_members_are_bounded(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "a/" * 50
    members = [member(f"{deep}{'xy'[n % 2]}/f{n}", size=0) for n in range(20)]
    run(tar(*members), box)
    monkeypatch.setattr(costs, "MOST_STEPS", 500)
    with pytest.raises(ArchiveRefused, match="nested beyond all measure"):
        run(tar(*members), box)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (member("Model"), member("model")),
        (folder("Data"), member("data/x")),
        (member("D/x"), member("d/y")),
        (member("stra\u00dfe"), member("STRASSE")),
        (member("caf\u00e9"), member("cafe\u0301")),
        (member("a"), link("A", "b")),
    ],
)
def test_names_that_are_one_on_this_disk_are_refused_instead_of_lost(
    box: Path, monkeypatch: pytest.MonkeyPatch, first: tarfile.TarInfo, second: tarfile.TarInfo
) -> None:
    run(tar(first, second), box)  # two names here
    shutil.rmtree(box)
    monkeypatch.setattr(tree, "folds_names", lambda folder: True)
    with pytest.raises(ArchiveRefused, match="are one file"):
        run(tar(first, second), box)
    run(tar(member("f"), member("f")), box)  # the same name again replaces, as ever


def test_whether_a_disk_folds_names_is_asked_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not tree.folds_names(handle)
        found = os.stat
        monkeypatch.setattr(os, "stat", lambda name, dir_fd: found(name.swapcase(), dir_fd=dir_fd))
        assert tree.folds_names(handle)
    finally:
        os.close(handle)
    assert list(tmp_path.iterdir()) == []


def test_a_header_beyond_all_measure_is_refused_before_it_is_read(box: Path) -> None:
    # A gigabyte of extended header in a megabyte of gzip would be one string in memory.
    info = member("x", b"x")
    info.size = 1 << 30
    data = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(32 * MB))
    with pytest.raises(ArchiveRefused, match="header beyond all measure"):
        run(data, box)


def test_global_headers_do_not_pile_up_in_memory(box: Path) -> None:
    def piece(number: int) -> bytes:
        record = f" k{number}=" + "x" * 300_000 + "\n"
        content = f"{len(record) + 6}{record}".encode()
        info = member("global", b"g")
        info.size = len(content)
        header = info.tobuf(tarfile.USTAR_FORMAT) + content
        return header + bytes(-len(header) % 512) + member(f"f{number}").tobuf()

    assert run(b"".join(map(piece, range(10, 13))) + bytes(1024), box).members == 3
    with pytest.raises(ArchiveRefused, match="global headers"):
        run(b"".join(map(piece, range(10, 20))) + bytes(1024), box)


def test_headers_upon_headers_are_refused(box: Path) -> None:
    info = member("././@PaxHeader", b"x")
    info.size = 0
    with pytest.raises(ArchiveRefused):
        run(info.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(10240), box)


def test_a_dictionary_beyond_all_measure_is_refused(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lzma.compress(tar(member("f")), preset=6)
    monkeypatch.setattr(xz, "MOST_MEMORY", MB)
    with pytest.raises(ArchiveRefused, match="damaged"):
        run(data, box)


# --- zip -------------------------------------------------------------------------------------


def zipped(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.create_system = 3
        out.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../outside/new", "/etc/new", "a/../../x"])
def test_a_zip_member_that_leaves_is_refused(box: Path, name: str) -> None:
    with pytest.raises(ArchiveRefused):
        run(zipped(name), box)


def test_a_zip_link_that_leaves_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="leads out"):
        run(zipped("l", b"../outside", stat.S_IFLNK | 0o777), box)


def test_a_zip_whose_table_would_fill_the_memory_is_refused(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for number in range(50):
            out.writestr(f"member{number}", b"")
        out.comment = b"x" * 60000
    assert run(buffer.getvalue(), box).members == 50
    monkeypatch.setattr(unpack_zip, "MOST_DIRECTORY", 1000)
    with pytest.raises(ArchiveRefused, match="more members than can be remembered"):
        run(buffer.getvalue(), box)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w") as out:
        for number in range(50):
            out.writestr(f"member{number}", b"")
    assert b"PK\x06\x06" in large.getvalue()
    with pytest.raises(ArchiveRefused, match="more members than can be remembered"):
        run(large.getvalue(), box)


def test_a_zip_pipe_is_refused(box: Path) -> None:
    with pytest.raises(ArchiveRefused, match="neither a file nor a folder"):
        run(zipped("p", b"", stat.S_IFIFO | 0o644), box)


def test_an_encrypted_zip_is_refused(box: Path) -> None:
    data = bytearray(zipped("secret"))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + at] |= 1
    with pytest.raises(ArchiveRefused, match="encrypted"):
        run(bytes(data), box)


# --- not what it should be -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty object"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML"),
        (b'{"error": "denied"}', "JSON text"),
        (b"lines\nof text\n", "but text"),
        ("é".encode() * 300, "but text"),
        (b"\x80\x04\x95\x00\x00", "a Python pickle"),
        (b"\x28\xb5\x2f\xfd1234", "zstd data, which is not supported"),
        (bytes(range(1, 200)), "binary data that begins with 01 02 03"),
        (gzip.compress(b"only text", mtime=0), "but text"),
    ],
)
def test_what_is_no_archive_is_named_by_its_kind(box: Path, data: bytes, words: str) -> None:
    with pytest.raises(ArchiveRefused, match=words) as caught:
        run(data, box)
    assert "Sign in" not in str(caught.value)
    assert "denied" not in str(caught.value)


@pytest.mark.parametrize("where", [512, 700, 1024, 1500, 2047])
def test_an_archive_cut_off_is_refused(box: Path, where: int) -> None:
    data = tar(member("a"), member("b"), content=b"x" * 1000)
    with pytest.raises(ArchiveRefused):
        run(data[:where], box)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_compressed_archive_cut_off_is_refused(box: Path, compress) -> None:
    data = compress(tar(member("a"), content=os.urandom(100_000)))
    for cut in (len(data) // 2, len(data) - 4):
        with pytest.raises(ArchiveRefused, match="damaged or cut off"):
            run(data[:cut], box)


def test_a_damaged_header_in_the_middle_is_no_quiet_end(box: Path) -> None:
    data = bytearray(tar(member("a"), member("b"), member("c"), content=b""))
    data[512 + 3] ^= 0xFF
    with pytest.raises(ArchiveRefused, match="damaged after 1 members"):
        run(bytes(data), box)


def test_a_damaged_checksum_at_the_end_is_noticed(box: Path) -> None:
    data = bytearray(gzip.compress(tar(member("a"), content=b"x" * 5000)))
    data[-6] ^= 0xFF
    with pytest.raises(ArchiveRefused, match="BadGzipFile"):
        run(bytes(data), box)


def test_a_damaged_zip_is_refused(box: Path) -> None:
    data = zipped("a", b"x" * 5000)
    for broken in (data[:100], data.replace(b"xxxx", b"xxyx", 1)):
        with pytest.raises(ArchiveRefused):
            run(broken, box)


def test_no_cut_and_no_flipped_byte_escapes_as_another_error(box: Path) -> None:
    import random

    whole = tar(member("a/b"), link("l", "a/b"), hard("h", "a/b"), gnu_member())
    dice = random.Random(7)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            run(bytes(data[: dice.randint(1, len(data))]), box, budget=MB)
        except (ArchiveRefused, DiskBudgetExceeded):
            continue


def gnu_member() -> tarfile.TarInfo:
    return member("deep/" * 60 + "name")


PART = st.sampled_from(["a", "b", "c", "..", ".", ""])
PATH = st.builds(
    lambda root, parts: root + "/".join(parts),
    st.sampled_from(["", "", "", "/", "./"]),
    st.lists(PART, min_size=1, max_size=5),
)
MEMBER = st.one_of(
    st.builds(member, PATH),
    st.builds(folder, PATH),
    st.builds(link, PATH, PATH),
    st.builds(hard, PATH, PATH),
)


@settings(max_examples=100, deadline=None)
@given(members=st.lists(MEMBER, max_size=8), as_zip=st.booleans())
def test_no_order_of_members_and_links_leaves_the_folder(
    members: list[tarfile.TarInfo], as_zip: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        outside, box = Path(place, "a"), Path(place, "box", "a")
        box.parent.mkdir()
        for folder_there in (outside, outside / "a", outside / "b"):
            folder_there.mkdir()
        before = sorted(map(str, outside.rglob("*")))
        data = zip_of(members) if as_zip else tar(*members)
        with contextlib.suppress(ArchiveRefused):
            unpack.unpack(io.BytesIO(data), box)
        assert sorted(map(str, outside.rglob("*"))) == before
        assert sorted(p.name for p in Path(place).iterdir()) == ["a", "box"]
        assert [p.name for p in Path(place, "box").iterdir()] == ["a"]
        for found in box.rglob("*"):
            assert os.path.realpath(found).startswith(os.path.realpath(box))


def zip_of(members: list[tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as out:
        warnings.simplefilter("ignore")  # names that come twice
        for info in members:
            entry = zipfile.ZipInfo(info.name + "/" * info.isdir())
            entry.create_system = 3
            kind = stat.S_IFLNK if info.issym() else stat.S_IFDIR if info.isdir() else stat.S_IFREG
            entry.external_attr = (kind | 0o644) << 16
            out.writestr(entry, info.linkname.encode())
    return buffer.getvalue()
