"""The batch script: templates in, bash out.

The templates run in Jinja2's sandbox, undefined names are errors, and an expression may print
nothing but a ``Word``: a value that nobody quoted cannot reach a script, in the shipped
templates and in a site's own alike.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.dialect import dialect_of
from hpcrunner.batch.words import Word, quote, trusted
from hpcrunner.data import data_folder
from hpcrunner.errors import HpcrunnerError
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

TEMPLATE = "batch.sh.j2"
# A site's template reaches the shipped one of the same name as ``shipped/batch.sh.j2``.
SHIPPED = "shipped"


class TemplateRefused(HpcrunnerError):
    """A batch template with a mistake."""

    exit_code = 78  # EX_CONFIG


def render_script(batch: Batch, site: Site) -> str:
    """The text of a batch's script.

    Raises TemplateRefused, and WordRefused for a path that no script can hold.
    """
    dialect = dialect_of(site)
    words: dict[str, Any] = {
        "scheduler": dialect.name,
        "header": dialect.header(batch, site),
        "signals": tuple(Word(name) for name in dialect.signals),
        "assignments": tuple(
            Word(f"{name}={quote(value, what=f'environment.{name}')}")
            for name, value in site.environment.items()
        ),
        "modules": tuple(quote(name, what="modules") for name in site.modules),
        "prologue": tuple(trusted(lines) for lines in site.prologue),
        "python": quote(site.python, what="python"),
        "folder": quote(str(batch.folder), what="spool"),
        "cpus": Word(str(batch.spec.cpus)),
        "index": _index(batch, dialect.index),
    }
    environment = _environment(site.templates)
    try:
        return str(environment.get_template(TEMPLATE).render(words))
    except Exception as error:  # whatever a site's template raises is the template's mistake
        raise _refusal(error, environment) from error


def check_templates(site: Site) -> None:
    """Render a sample, so that a mistake in a site's template shows before any work is taken.

    Raises TemplateRefused.
    """
    sample = Batch(id="0" * 32, spec=JobSpec(), size=2, folder=site.spool_path / "sample")
    render_script(sample, site)


def _index(batch: Batch, variable: str) -> Word:
    if batch.size == 1:
        return Word("1")
    # Without its variable a task would run another's experiment: better none at all.
    return Word(f'"${{{variable}:?is not set: not started as an array}}"')


class _WordEnvironment(ImmutableSandboxedEnvironment):
    """Pieces that were all checked (``super()``, macros, set blocks) join to a Word again."""

    @staticmethod
    def concat(pieces: Iterable[str]) -> Word:
        return Word("".join(pieces))


@lru_cache(maxsize=8)
def _environment(folder: str | None) -> _WordEnvironment:
    shipped = jinja2.FileSystemLoader(data_folder("templates"))
    loaders: list[jinja2.BaseLoader] = [shipped, jinja2.PrefixLoader({SHIPPED: shipped})]
    if folder is not None:
        if not Path(folder).is_dir():
            raise TemplateRefused(
                "no such folder", where=folder, remedy="correct the key templates of the site file"
            )
        loaders.insert(0, jinja2.FileSystemLoader(folder))
    return _WordEnvironment(
        loader=jinja2.ChoiceLoader(loaders),
        undefined=jinja2.StrictUndefined,
        finalize=_only_words,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _only_words(value: Any) -> Word:
    if isinstance(value, Word):
        return value
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises with the undefined name
    raise TypeError(f"printed a value that is not quoted ({type(value).__name__})")


def _refusal(error: Exception, environment: _WordEnvironment) -> TemplateRefused:
    if isinstance(error, jinja2.TemplateSyntaxError):
        name, line, problem = error.filename or error.name, error.lineno, error.message
    else:
        name, line = _last_template_line(error)
        problem = str(error)
        if isinstance(error, jinja2.TemplateNotFound):
            problem = f"no template {error.name}"
    return TemplateRefused(
        (problem or type(error).__name__).rstrip("."),
        where=f"{name or TEMPLATE} (line {line})",
        remedy="mend the template, or leave out the key templates to use the shipped one",
    )


def _last_template_line(error: Exception) -> tuple[str, int]:
    """Where a template was when it failed: Jinja2 puts its files into the traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.endswith(".j2"):
            return frame.filename, frame.lineno or 1
    return TEMPLATE, 1
