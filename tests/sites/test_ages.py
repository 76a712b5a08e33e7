"""Ages of the key ``retention``, as people write and read them."""

import pytest

from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site
from hpcrunner.sites.values import age_text, parse_age


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30d", 2592000.0),
        ("2w", 1209600.0),
        ("12H", 43200.0),
        ("90m", 5400.0),
        ("45s", 45.0),
        ("0", 0.0),
        ("unlimited", None),
    ],
)
def test_an_age_is_read_as_written(text: str, seconds: float | None) -> None:
    assert parse_age(text) == seconds
    assert parse_age(age_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "1d12h", "30 d", "never", "1y"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an age"):
        parse_age(text)


def test_a_site_says_for_how_long_what_has_ended_is_kept() -> None:
    kept = Site.model_validate({"retention": {"ended": "UNLIMITED", "environments": "2w"}})
    assert (kept.retention.secrets, kept.retention.ended) == (86400.0, None)
    assert kept.retention.dead == 90 * 86400.0
    assert node_setup(kept, 0).environments_kept == 14 * 86400.0
