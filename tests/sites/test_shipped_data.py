"""The files that come with hpcrunner are found in a wheel and in a checkout."""

from pathlib import Path

import pytest

import hpcrunner.data
from hpcrunner.data import DataMissing, data_folder


def test_a_checkout_has_them_beside_the_package() -> None:
    assert (data_folder("templates") / "batch.sh.j2").is_file()
    assert (data_folder("site-configs") / "local.yaml").is_file()


def test_a_wheel_carries_them_inside_the_package_and_those_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "hpcrunner"
    beside, inside = tmp_path / "templates", package / "_data" / "templates"
    beside.mkdir()
    monkeypatch.setattr(hpcrunner.data, "PACKAGE", package)
    assert data_folder("templates") == beside
    inside.mkdir(parents=True)
    assert data_folder("templates") == inside


def test_an_installation_without_them_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpcrunner.data, "PACKAGE", tmp_path / "hpcrunner")
    with pytest.raises(DataMissing, match=r"_data/templates or .*: no folder templates; the inst"):
        data_folder("templates")
