"""The experiment's folders on the node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcrunner.job.workspace import (
    NodeFolderError,
    Workspace,
    expand,
    make_workspace,
    private_folder,
    remove_tree,
)
from hpcrunner.request.plan import NodeSetup


def make(scratch: Path | str, *tags: str, task: str = "b0-1", name: str = "k-1") -> Workspace:
    environ = {"JOBTMP": "/nowhere", "EMPTY": ""}
    return make_workspace(NodeSetup(str(scratch), "/c"), task, name, tags, environ)


def test_the_tags_are_the_only_folders_beside_ours(tmp_path: Path) -> None:
    made = make(tmp_path / "s", "modeldir", "output", "workspace")
    assert sorted(os.listdir(made.root)) == ["modeldir", "output", "workspace"]
    assert made.root == made.home / "experiments" / "k-1"
    assert made.output == made.root / "output" / "output"
    for folder in (made.home, made.home.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_without_an_output_artifact_no_output_folder_stands_beside_the_workspace(
    tmp_path: Path,
) -> None:
    made = make(tmp_path, "retval")
    assert sorted(os.listdir(made.root)) == ["retval", "workspace"]
    assert made.output == made.home / "_runner" / "output"


def test_sockets_in_tmpdir_keep_a_short_path(tmp_path: Path) -> None:
    made = make(tmp_path, name="k" * 200)
    assert len(str(made.tmp)) - len(str(tmp_path)) < 40


def test_what_a_requeued_job_left_is_gone(tmp_path: Path) -> None:
    (make(tmp_path).cwd / "old").touch()
    assert os.listdir(make(tmp_path).cwd) == []


def test_a_link_in_place_of_our_folder_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / f"hpcrunner-{os.getuid()}").symlink_to(target)
    with pytest.raises(NodeFolderError, match="not a folder of this user"):
        make(tmp_path)
    assert os.listdir(target) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    os.chown(tmp_path / "f", 12345, 12345)
    with pytest.raises(NodeFolderError):
        private_folder(tmp_path / "f")


def test_our_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir(mode=0o755)
    assert private_folder(tmp_path / "f").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("tag", ["..", ".", "a/b", "_runner", "", ".hidden", "a\nb"])
def test_a_tag_that_is_no_plain_name_makes_no_folder(tmp_path: Path, tag: str) -> None:
    with pytest.raises(NodeFolderError):
        make(tmp_path, tag)


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_a_plan_cannot_lead_out_of_the_scratch_folder(tmp_path: Path, name: str) -> None:
    for words in ({"task": name}, {"name": name}):
        with pytest.raises(NodeFolderError):
            make(tmp_path, **words)


def test_variables_of_the_node_are_expanded_and_missing_ones_named() -> None:
    environ = {"A": "/a", "B": "b", "EMPTY": ""}
    assert expand("$A/${B}c", environ, what="scratch") == Path("/a/bc")
    for text in ("$GONE/x", "$EMPTY/x", "relative"):
        with pytest.raises(NodeFolderError, match="scratch"):
            expand(text, environ, what="scratch")


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    made = make(tmp_path / "s")
    (made.cwd / "link").symlink_to(outside)
    (made.cwd / "closed").mkdir()
    (made.cwd / "closed" / "link").symlink_to(outside / "precious")
    (made.cwd / "closed").chmod(0o500)
    remove_tree(made.home)
    assert not made.home.exists()
    assert (outside / "precious").exists()
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    assert (outside / "precious").exists()
