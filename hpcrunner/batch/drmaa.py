"""What a DRMAA library is given for a batch: texts in the words of the DRM behind it."""

from __future__ import annotations

from dataclasses import dataclass

from hpcrunner.errors import HpcrunnerError


class NativeRefused(HpcrunnerError):
    """Something that a native specification cannot carry."""

    exit_code = 78  # EX_CONFIG


@dataclass(frozen=True, slots=True)
class DrmaaJob:
    """``nativeSpecification``, ``remoteCommand``, and ``outputPath`` without its colon."""

    native: str
    command: str
    output: str
