"""A site's own templates: what they may do, and that a mistake is one line with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.script import TemplateRefused, check_templates, render_script
from hpcrunner.sites.site import Site

MakeBatch = Callable[..., Batch]
MakeSite = Callable[..., Site]


@pytest.fixture
def own(tmp_path: Path, site: MakeSite) -> Callable[..., Site]:
    """A site with templates of its own: texts by path, written below its folder."""

    def make(files: dict[str, str], **keys: object) -> Site:
        folder = tmp_path / "templates"
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return site(templates=str(folder), **keys)

    return make


def test_a_site_may_replace_one_partial(batch: MakeBatch, own: MakeSite, site: MakeSite) -> None:
    here = own({"partials/prologue.sh.j2": "\necho from the site\n"})
    shipped = render_script(batch(), site())
    assert render_script(batch(), here) == shipped.replace(
        "\n# By exec", "\necho from the site\n\n# By exec"
    )


def test_a_site_may_extend_a_block_of_the_shipped_template(batch: MakeBatch, own: MakeSite) -> None:
    text = (
        '{% extends "shipped/batch.sh.j2" %}\n'
        "{% block run %}\nset -x\n{{ super() }}{% endblock %}\n"
    )
    lines = render_script(batch(), own({"batch.sh.j2": text})).splitlines()
    assert "set -x" in lines
    assert lines[-1].startswith("exec ")


def test_a_site_may_write_the_whole_script(batch: MakeBatch, own: MakeSite) -> None:
    text = (
        "#!/bin/sh\n"
        "{% macro start(word) %}{{ word }} -m hpcrunner.job{% endmacro %}\n"
        "{{ start(python) }} {{ folder }} {{ index }}\n"
    )
    assert render_script(batch(), own({"batch.sh.j2": text})) == (
        "#!/bin/sh\n/opt/hpcrunner/bin/python -m hpcrunner.job "
        "/home/user/.hpcrunner/batches/0123456789ab 1\n"
    )


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("#!/bin/bash\n{% if %}\n", 2, "Expected an expression"),
        ("#!/bin/bash\n\n{{ folder\n", 3, "unexpected end of template"),
        ("a\n{% for x in header %}\n", 2, "Unexpected end of template"),
        ("a\n\n\n{{ foldr }}\n", 4, "'foldr' is undefined"),
        ("a\n{{ 'text' }}\n", 2, r"not quoted \(str\)"),
        ("a\n{{ folder ~ '/x' }}\n", 2, r"not quoted \(str\)"),
        ("a\n{{ header | join(' ') }}\n", 2, r"not quoted \(str\)"),
        ("a\n{{ python.upper() }}\n", 2, r"not quoted \(str\)"),
        ("a\n{{ 1 }}\n", 2, r"not quoted \(int\)"),
        ("a\n{{ 1 > 0 }}\n", 2, r"not quoted \(bool\)"),
        ("a\n{% include 'nowhere.j2' %}\n", 2, "no template nowhere.j2"),
        ("a\n{% include '../../etc/passwd' %}\n", 2, "no template"),
        ("a\n{% for f in ().__class__.__base__.__subclasses__() %}{% endfor %}\n", 2, "unsafe"),
        ("a\n{% set x = 1 // 0 %}\n", 2, "by zero"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(
    own: MakeSite, text: str, line: int, problem: str
) -> None:
    here = own({"batch.sh.j2": text})
    with pytest.raises(TemplateRefused, match=problem) as caught:
        check_templates(here)
    said = caught.value.line()
    assert said.startswith(f"{here.templates}/batch.sh.j2 (line {line}): ")
    assert "\n" not in said
    assert caught.value.exit_code == 78


def test_a_mistake_in_a_partial_names_the_partial(own: MakeSite) -> None:
    here = own({"partials/run.sh.j2": "\n{{ nonsense }}\n"})
    with pytest.raises(TemplateRefused, match=r"partials/run\.sh\.j2 \(line 2\): 'nonsense' is"):
        check_templates(here)


def test_a_missing_folder_is_named(site: MakeSite, tmp_path: Path) -> None:
    with pytest.raises(
        TemplateRefused, match=r"nowhere: no such folder; correct the key templates"
    ):
        check_templates(site(templates=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("scheduler", ["auto", "local"])
def test_the_shipped_templates_are_sound(site: MakeSite, scheduler: str) -> None:
    check_templates(site(scheduler=scheduler, modules=["x"], environment={"A": "b"}))
