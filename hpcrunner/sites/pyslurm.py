"""The site's pyslurm."""

from __future__ import annotations

from pydantic import Field

from hpcrunner.sites.part import Part
from hpcrunner.sites.values import Program


class Pyslurm(Part):
    """Where the pyslurm is that fits the cluster's Slurm."""

    python: Program | None = Field(
        default=None,
        description="Interpreter on the login node that has pyslurm; left out: the gateway's. It "
        "needs nothing else of hpcrunner's.",
        examples=["~/pyslurm/bin/python"],
    )
