"""A site may need keys that only its user knows; until they are set nothing is done with it."""

from typing import Any

import pytest

from hpcrunner.cli.common import chosen_site
from hpcrunner.sites.needs import check_needs, unmet
from hpcrunner.sites.problems import SiteError
from hpcrunner.sites.site import Site


def site(**keys: Any) -> Site:
    return Site.model_validate({"name": "here", "needs": ["account"], **keys})


@pytest.mark.parametrize(
    "keys",
    [
        {"account": "lab"},
        {"partitions": [{"name": "a", "account": "x"}, {"name": "b", "account": "y"}]},
        {
            "partitions": [{"name": "a"}],
            "rules": [{"name": "r", "account": "x"}, {"name": "s", "allowed": False}],
        },
    ],
)
def test_the_sites_account_will_do_or_one_for_each_kind_of_job(keys: dict[str, Any]) -> None:
    assert unmet(site(**keys)) == ()
    check_needs(site(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"qos": "high"},
        {"partitions": [{"name": "a", "account": "x"}, {"name": "b"}]},
        {"rules": [{"name": "r", "account": "x"}, {"name": "s"}]},
    ],
)
def test_a_kind_of_job_without_an_account_is_one_line(keys: dict[str, Any]) -> None:
    with pytest.raises(SiteError) as caught:
        check_needs(site(**keys))
    assert caught.value.exit_code == 78
    assert caught.value.line().startswith("site here: account is not set, and this cluster")


def test_the_command_line_refuses_such_a_site_before_anything_is_done() -> None:
    with pytest.raises(SiteError, match="extends: saga"):
        chosen_site("saga", "")
