"""The request as immutable data, in the words of the StudioML message.

Units are settled here once: bytes are ``int`` bytes, durations and times are ``float``
seconds (times since the epoch). Nothing in this module reads or writes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """Keys for an S3-compatible store; two empty keys ask for anonymous access."""

    access_key: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""


@dataclass(frozen=True, slots=True)
class WebCredentials:
    """Who asks at an http address: user and password (RFC 7617), or a token (RFC 6750)."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """``config.storage`` or ``config.database`` of the client.

    ``type`` is the client's word (``s3``, ``local``, ``gcloud`` …); ``endpoint`` is a URL for
    S3 and Firebase and a folder for ``local``. ``token`` is Firebase's, if it wants one.
    """

    type: str
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    credentials: AwsCredentials | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One entry of ``experiment.artifacts``; ``tag`` becomes the folder name on the node.

    ``unpack`` is None where the client sent null (it does so for archives it re-uses).
    ``save_frequency`` is in seconds, None where the artifact names none of its own.
    """

    tag: str
    mutable: bool
    unpack: bool | None = None
    qualified: str = ""
    url: str = field(default="", repr=False)  # may be signed, or hold a password
    bucket: str = ""
    key: str = ""
    credentials: AwsCredentials | None = None
    web: WebCredentials | None = None
    save_frequency: float | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """``experiment.resources_needed``. Memory figures in bytes; 0 means "not asked for".

    What ``gpus`` and ``gpu_count`` count is for the site to say (sites/gpus.py). ``gpu_memory``
    is that of each GPU; ``gpu_type`` is a name that the site's file gives to a type, or empty.
    """

    cpus: int = 1
    gpus: int = 0
    gpu_memory: int = 0
    ram: int = 0
    hdd: int = 0
    gpu_count: int = 0
    gpu_type: str = ""


@dataclass(frozen=True, slots=True)
class RetryWish:
    """How many attempts after a failure the client wants at most; None leaves it to the site."""

    infrastructure: int | None = None
    payload: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A validated request.

    ``args`` are plain words (the client's shell quoting undone). ``environment`` holds
    ``config.env`` in message order. ``max_duration`` limits one attempt's run time and
    ``lifetime`` runs from ``time_added``; both in seconds, None where the client set none.
    ``document`` is the message's ``experiment`` object as JSON text (credentials included):
    what the client's database record is made of.
    """

    key: str
    filename: str | None
    args: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    resources: Resources
    python_version: str = ""
    python_packages: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    max_duration: float | None = None
    lifetime: float | None = None
    time_added: float | None = None
    save_interval: float | None = None
    metrics_interval: float | None = None
    storage: StoreConfig | None = None
    database: StoreConfig | None = None
    owner: str = ""
    project: str = ""
    retries: RetryWish = RetryWish()
    pythonenv: str = ""
    slack_destination: str = ""
    document: str = field(default="{}", repr=False)

    def artifact(self, tag: str) -> Artifact | None:
        """The artifact of that tag, or None."""
        return next((a for a in self.artifacts if a.tag == tag), None)

    @property
    def expires_at(self) -> float | None:
        """When the lifetime ends (epoch seconds), or None. Clocks below 10 s mean "not set"."""
        if self.lifetime is None or self.time_added is None or self.time_added <= 10.0:
            return None
        return self.time_added + self.lifetime


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A message whose request is encrypted: its clear outer header, and the sealed rest.

    ``payload`` is the seal, ``signature`` that of its sender's key, ``fingerprint`` that key's.
    The header is not signed; its values are for those who do not open the message.
    """

    resources: Resources
    payload: str = field(default="", repr=False)
    signature: str = field(default="", repr=False)
    fingerprint: str = ""
    python_version: str = ""
    time_added: float | None = None
