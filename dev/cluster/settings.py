"""What the cluster remembers between commands: knobs, and passwords made once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from . import files
from .errors import CannotHere
from .layout import Layout


@dataclass(frozen=True)
class Settings:
    """Knobs. One that a later ``up`` does not give keeps its value until ``destroy``."""

    min_job_age: int = 300
    drmaa_library: str = ""

    @staticmethod
    def load(layout: Layout) -> Settings:
        """The knobs as last given."""
        if not layout.settings.exists():
            return Settings()
        return Settings(**json.loads(layout.settings.read_text()))

    def given(self, environ: Mapping[str, str], min_job_age: int | None) -> Settings:
        """These knobs, changed by the command line and the environment."""
        changed = self
        text = environ.get("HPCRUNNER_DEV_MIN_JOB_AGE", "")
        if min_job_age is None and text:
            if not text.isdecimal():
                raise CannotHere(f"HPCRUNNER_DEV_MIN_JOB_AGE is not a number of seconds: {text}")
            min_job_age = int(text)
        if min_job_age is not None:
            # Slurm takes 0 as "never forget", the opposite of what one asks for here.
            changed = replace(changed, min_job_age=max(min_job_age, 2))
        if "DRMAA_LIBRARY_PATH" in environ:
            changed = replace(changed, drmaa_library=environ["DRMAA_LIBRARY_PATH"])
        return changed

    def save(self, layout: Layout) -> None:
        """Keep the knobs for the next command."""
        files.write(layout.settings, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Secrets:
    """Passwords and keys: of no worth outside this machine, and yet not guessable."""

    database_password: str
    rabbitmq_user: str
    rabbitmq_password: str
    s3_access_key: str
    s3_secret_key: str

    @staticmethod
    def load(layout: Layout) -> Secrets:
        """The ones made before, or new ones."""
        if layout.secrets.exists():
            return Secrets(**json.loads(layout.secrets.read_text()))
        made = Secrets(
            database_password=secrets.token_hex(16),
            rabbitmq_user="hpcrunner",
            rabbitmq_password=secrets.token_hex(16),
            s3_access_key="dev" + secrets.token_hex(8),
            s3_secret_key=secrets.token_hex(20),
        )
        files.write(layout.secrets, json.dumps(asdict(made), indent=2) + "\n", mode=0o600)
        return made
