"""What an environment has installed, as the metadata tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcrunner.job.packages import FILE, LARGEST, read_packages, write_packages


def install(venv: Path, name: str, version: str, *needs: str) -> None:
    folder = venv / f"lib/python3.11/site-packages/{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, "", "text"]))


def test_packages_are_told_with_what_they_need_of_each_other(tmp_path: Path) -> None:
    needs = ["B_b (>=1,<2) ; python_version < '4'", "c", "absent>=1", "d[x]>=2; extra == 'more'"]
    install(tmp_path, "A", "1.0", *needs, "e @ https://host/e.zip")
    for name in ("b.b", "C", "d", "e"):
        install(tmp_path, name, "1.5")
    write_packages(tmp_path)
    first, *others = read_packages(tmp_path)
    about = {"key": "b-b", "package_name": "b.b", "installed_version": "1.5"}
    assert first == {
        "package": {"key": "a", "package_name": "A", "installed_version": "1.0"},
        "dependencies": [
            {**about, "required_version": ">=1,<2"},
            {"key": "c", "package_name": "C", "installed_version": "1.5", "required_version": None},
            {"key": "e", "package_name": "e", "installed_version": "1.5", "required_version": None},
        ],
    }
    assert others[0] == {"package": about, "dependencies": []}
    assert [other["package"]["key"] for other in others] == ["b-b", "c", "d", "e"]


@pytest.mark.parametrize("text", ["", "{}", "[1", "[" * 100_000, "[" + " " * LARGEST + "]", "ü"])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_packages(tmp_path) == []
    assert read_packages(tmp_path / "nowhere") == []


def test_an_endless_list_is_not_told(tmp_path: Path) -> None:
    for number in range(40):
        install(tmp_path, f"p{number}", "1", *(f"p{other} (=={'1' * 200})" for other in range(40)))
    write_packages(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_package_whose_metadata_cannot_be_read_spoils_no_environment(tmp_path: Path) -> None:
    install(tmp_path, "a", "1.0", "b")
    install(tmp_path, "b", "1.0")
    broken = tmp_path / "lib/python3.11/site-packages/b-1.0.dist-info/METADATA"
    broken.write_bytes(b"Name: b\nVersion: 1.0\nAuthor: J\xfcrgen\n")  # as old packages have it
    (broken.parents[1] / "c-1.0.dist-info").mkdir()
    write_packages(tmp_path)
    assert [found["package"]["key"] for found in read_packages(tmp_path)] == ["a"]
