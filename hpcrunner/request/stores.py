"""Artifacts, stores and their credentials, in every dialect that clients have written."""

from __future__ import annotations

import re
from urllib.parse import unquote

from hpcrunner.request.errors import RequestError, shown
from hpcrunner.request.lenient import Member
from hpcrunner.request.model import Artifact, AwsCredentials, StoreConfig, WebCredentials

WORKSPACE = "workspace"
FIREBASE = "firebase"
CONTAINER = "_singularity"  # names a container image; it is not fetched
RESERVED = frozenset({"_runner"})  # as a folder of the job side's own
MAX_ARTIFACTS = 256
MIN_INTERVAL = 1.0

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REGION = re.compile(r"[A-Za-z0-9-]{0,64}")
# From studioml <= 0.0.33 (flat aws_*), 0.0.34-0.0.40 (access_user), 0.0.41 on, the Go
# runner's documents (secret_key), and AWS's own names.
_ACCESS_KEY = ("access_key", "aws_access_key", "aws_access_key_id", "access_key_id", "access_user")
_SECRET_KEY = (
    "secret_access_key",
    "secret_key",
    "aws_secret_key",
    "aws_secret_access_key",
    "access_password",
)
_MAX_KEY = 1024
_MAX_TOKEN = 16 * 1024  # session tokens run to several kilobytes


def read_artifacts(member: Member) -> tuple[Artifact, ...]:
    """``experiment.artifacts`` in message order; null entries are left out.

    Raises RequestError where neither ``workspace`` nor ``_singularity`` is among them.
    """
    entries = [(tag, entry) for tag, entry in member.entries() if not entry.missing]
    if len(entries) > MAX_ARTIFACTS:
        raise member.error(f"{len(entries)} artifacts", remedy=f"at most {MAX_ARTIFACTS} allowed")
    if not {WORKSPACE, CONTAINER} & {tag for tag, _ in entries}:
        raise member.error(
            "nothing to run",
            remedy=f"send a {WORKSPACE} artifact with the code, or a {CONTAINER} image",
        )
    return tuple(_artifact(tag, entry) for tag, entry in entries)


def read_store(member: Member) -> StoreConfig | None:
    """``config.storage`` or ``config.database``; None where there is none."""
    if member.missing:
        return None
    kind = member.get("type").line().strip().lower()
    if kind == FIREBASE:
        return _firebase(kind, member)
    return StoreConfig(
        type=kind,
        endpoint=without_userinfo(member.get("endpoint").line().strip()),
        bucket=member.get("bucket").line(),
        region=_region(member.get("region", "region_name"))
        or _region(_block(member).get("aws").get("region", "region_name")),
        credentials=read_credentials(member),
    )


def _firebase(kind: str, member: Member) -> StoreConfig:
    """A Firebase database. Clients write ``{}`` in ``databaseURL`` for ``projectId``."""
    url = without_userinfo(member.get("databaseURL").line().strip())
    project = member.get("projectId").line().strip()
    return StoreConfig(
        type=kind,
        endpoint=url.replace("{}", project).replace("{0}", project),
        token=_block(member).get("jwt").get("token").line(_MAX_TOKEN),
    )


def read_credentials(owner: Member) -> AwsCredentials | None:
    """The S3 keys that stand in ``owner.credentials.aws``, ``owner.credentials`` or ``owner``.

    None where none of them names any. Half a pair is refused: it could only fail later, far
    from whoever can mend it.
    """
    block = _block(owner)
    for source in (block.get("aws"), block, owner):
        access, secret = source.get(*_ACCESS_KEY), source.get(*_SECRET_KEY)
        if access.missing and secret.missing:
            if not source.get("reference").missing:
                raise source.get("reference").error(
                    "credentials by reference are not looked up", remedy="send the keys themselves"
                )
            continue
        pair = access.line(_MAX_KEY), secret.line(_MAX_KEY)
        if bool(pair[0]) != bool(pair[1]):
            missing, there = (secret, access) if pair[0] else (access, secret)
            raise missing.error(
                f"missing beside {there.path.rpartition('.')[2]}", remedy="send both, or none"
            )
        return AwsCredentials(
            access_key=pair[0],
            secret_access_key=pair[1],
            session_token=source.get("session_token").line(_MAX_TOKEN),
            region=_region(source.get("region", "region_name")),
        )
    return None


def read_web_credentials(owner: Member) -> WebCredentials | None:
    """``owner.credentials.plain`` or ``owner.credentials.jwt``, for http addresses."""
    block = _block(owner)
    plain, token = block.get("plain"), block.get("jwt").get("token").line(_MAX_TOKEN)
    user, password = plain.get("user").line(_MAX_KEY), plain.get("password").line(_MAX_KEY)
    if not (user or password or token):
        return None
    return WebCredentials(user, password, token)


def without_userinfo(url: str) -> str:
    """The URL without ``user:password@``, which every log would show."""
    return _split_userinfo(url)[0]


def checked_region(region: str, *, where: str) -> str:
    """The region itself. Raises RequestError where it could not be part of a host's name."""
    if not _REGION.fullmatch(region):
        raise RequestError(
            "is no region", where=where, remedy="send a region's name, such as us-west-2"
        )
    return region


def _artifact(tag: str, member: Member) -> Artifact:
    if not _TAG.fullmatch(tag) or tag in RESERVED:
        raise _bad_tag(tag, member)
    frequency = member.get("saveFrequency").duration()
    qualified, userinfo = _split_userinfo(member.get("qualified").line().strip())
    is_web = qualified.lower().startswith(("http://", "https://"))
    web, credentials = read_web_credentials(member), read_credentials(member)
    if userinfo and (is_web or tag == CONTAINER):
        web = web or WebCredentials(*userinfo)
    elif userinfo and qualified.lower().startswith("s3:"):
        credentials = credentials or AwsCredentials(*userinfo)
    return Artifact(
        tag=tag,
        mutable=member.get("mutable").truth() or False,
        unpack=member.get("unpack").truth(),
        qualified=qualified,
        url=member.get("url").line().strip(),
        bucket=member.get("bucket").line(),
        key=member.get("key").line(),
        credentials=credentials,
        web=web,
        save_frequency=max(frequency, MIN_INTERVAL) if frequency and frequency > 0 else None,
    )


def _split_userinfo(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its ``user:password@``, and these two, unquoted; None where not both are."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url, None
    authority, slash, path = rest.partition("/")
    userinfo, _, host = authority.rpartition("@")
    if host.startswith("sha256:"):  # an image by its digest
        return url, None
    user, _, password = userinfo.partition(":")
    pair = (unquote(user), unquote(password)) if user and password else None
    return f"{scheme}://{host}{slash}{path}", pair


def _bad_tag(tag: str, member: Member) -> RequestError:
    if tag in RESERVED:
        return member.error("a tag that the runner itself uses", remedy="choose another tag")
    return RequestError(
        f"{shown(tag)} is no artifact tag",
        where="experiment.artifacts",
        remedy="use up to 128 letters, digits and _ . - with a letter, digit or _ first",
    )


def _block(owner: Member) -> Member:
    """``owner.credentials``; clients also write a word such as "none" there."""
    block = owner.get("credentials")
    return Member(None, block.path) if isinstance(block.value, str) else block


def _region(member: Member) -> str:
    return checked_region(member.line().strip(), where=member.path)
