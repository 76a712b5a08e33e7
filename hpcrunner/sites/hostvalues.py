"""The kind of values that name hosts: see values.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from hpcrunner.request.hosts import parse_host
from hpcrunner.sites.values import Allowed

Host = Annotated[
    str,
    AfterValidator(parse_host),
    Allowed(
        "`public`, a host's name, `.example.org`, an address, or a network such as 10.1.0.0/16, "
        "without ports; none of link-local or where clouds keep credentials"
    ),
]
