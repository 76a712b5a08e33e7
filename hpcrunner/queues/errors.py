"""Errors in what a person configured, as against a server that is away."""

from __future__ import annotations

from hpcrunner.errors import HpcrunnerError


class OptionInvalid(HpcrunnerError):
    """A queue option that cannot work; ``where`` names the option. Never shows a credential."""

    exit_code = 64  # EX_USAGE
