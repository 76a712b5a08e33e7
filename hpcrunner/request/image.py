"""Which container image a request means, in one normal form. Pure.

The normal form is what trust, pins and the cache go by, what people read and what the runtime
pulls: however a reference is spelt, one image has one form, and a form that could be read in two
ways is refused::

    docker://docker.io/library/ubuntu:22.04     registry host, repository, tag (or @sha256:…)
    oras://registry.example:5000/team/image:1
    library://library/default/alpine:3.18
    shub://vsoch/hello-world:latest
    s3://host:port/bucket/key   gs://bucket/key   https://host/path
    /apps/images/train.sif
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.errors import shown
from hpcrunner.request.location import Location

Kind = Literal["registry", "store", "file"]
ALLOWED = (
    "docker://, dockerhub://, oras://, library://, shub://, s3://, gs://, http(s)://, file:/// "
    "or an absolute path"
)
WHERE = "artifact _singularity"
DOCKER_HUB = "docker.io"

_STORES = frozenset({"s3", "gs", "http", "https"})
_SCHEMES = _STORES | {"docker", "dockerhub", "oras", "library", "shub", "file"}
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "hub.docker.com"})
_LIBRARY_HOST = "library.sylabs.io"
_SHUB_HOST = "singularity-hub.org"
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")
# Of the Open Container Initiative's distribution specification: names, tags, digests.
_OCI_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LIBRARY_DIGEST = re.compile(r"sha256[.:]([0-9a-f]{64})")
_SHUB_DIGEST = re.compile(r"[0-9a-f]{32,64}")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")
_LONGEST = 4096


class ImageRefused(HpcrunnerError):
    """An image that this site cannot run, or must not."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image by its normal form, ``text``.

    ``parts`` are the host and the path below it, ``tag`` is "" where ``digest`` says all.
    ``digest`` is what the reference itself demands, ``sha256:<hex>`` or "": of a registry's
    manifest, for ``library`` of the image file.
    """

    kind: Kind
    scheme: str
    parts: tuple[str, ...]
    tag: str = ""
    digest: str = ""

    @property
    def text(self) -> str:
        """The normal form."""
        path = "/".join(self.parts)
        if self.scheme == "file":
            return f"/{path}"
        if self.scheme == "library" and self.digest:
            return f"library://{path}:{self.digest.replace(':', '.')}"
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.scheme}://{path}{tag}{digest}"


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """The image of an attempt.

    ``reference`` is the normal form, of a registry's image as it is to be pulled. ``location`` is
    the address of one that lies in a store, with its credentials; None for registries and files.
    ``digest`` is the SHA-256 (hex) that the image file must have, "" for any: a registry's digest
    stands in ``reference``. ``user`` and ``password`` are the request's own for the registry.
    ``path`` is set where the gateway has laid the image ready: then nothing is pulled.
    """

    reference: str
    location: Location | None = None
    digest: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    path: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it lies on a file system that the node sees, and is used there."""
        return self.reference.startswith("/")


@dataclass(frozen=True, slots=True)
class ImageSetup:
    """What the site says about pulling images.

    ``cache`` may hold ``$NAME`` words ("": the site's ``cache``); a folder ``images`` is made in
    it, for at most ``size`` bytes; one image's file may have ``largest`` (0: any number). A
    reference that can change is looked up again after ``refresh`` seconds (None: never). ``keys``
    is a file of public keys: with it only images that one of them has signed are run.
    ``plain_http`` are registries without TLS.
    """

    runtime: str = ""
    cache: str = ""
    size: int = 0
    largest: int = 0
    refresh: float | None = None
    keys: str = ""
    plain_http: tuple[str, ...] = ()


NO_IMAGES = ImageSetup()


def registry_of(reference: str) -> str:
    """The host that is asked for an image, in normal form, of a registry; with its port."""
    scheme, _, rest = reference.partition("://")
    first = rest.partition("/")[0]
    usual = {"library": _LIBRARY_HOST, "shub": _SHUB_HOST}.get(scheme)
    if usual is not None:
        return first if re.search(r"[.:]", first) else usual
    return "registry-1.docker.io" if first == DOCKER_HUB else first


def parse_image(qualified: str) -> ImageReference:
    """The image that an address names. Raises ImageRefused for what is not clearly an image.

    An address in a store is only classified here: credentials, and members of the artifact that
    win over it, are settled by resolve.py, whose answer ``stored_image`` brings into normal form.
    """
    if _UNPRINTABLE.search(qualified) or len(qualified) > _LONGEST:
        raise _refused(qualified)
    if qualified.startswith("/"):
        return _file(qualified, qualified)
    scheme, mark, rest = qualified.partition("://")
    scheme = scheme.lower()
    if not mark or not rest:
        raise _refused(qualified)
    if scheme == "file":
        if not rest.startswith("/"):
            raise _refused(qualified)
        return _file(unquote(rest) if "%" in rest else rest, qualified)
    if scheme in _STORES:
        return ImageReference("store", scheme, tuple(rest.split("/")))
    if scheme in ("docker", "dockerhub"):
        return _docker(rest, qualified)
    if scheme == "oras":
        return _oras(rest, qualified)
    if scheme == "library":
        return _library(rest, qualified)
    if scheme == "shub":
        return _shub(rest, qualified)
    raise _refused(qualified)


def stored_image(location: Location) -> ImageReference:
    """The normal form of an image in a store, or of a file. Raises ImageRefused."""
    shown_as = str(location)
    if location.scheme == "file":
        return _file(location.key, shown_as)
    if location.scheme == "http":
        split = urlsplit(location.endpoint)
        scheme = split.scheme.lower()
        host = (split.netloc.rpartition("@")[2]).lower()
        default = {"http": ":80", "https": ":443"}.get(scheme, "")
        parts = web_parts(split.path)
        if scheme not in ("http", "https") or parts is None or not host:
            raise _refused(shown_as)
        host = host.removesuffix(default)
        return ImageReference("store", scheme, (host, *parts))
    if _climbs(location.key) or _UNPRINTABLE.search(location.key):
        raise _refused(shown_as)
    key = tuple(location.key.split("/"))
    if location.scheme == "gs":
        return ImageReference("store", "gs", (location.bucket, *key))
    if location.scheme != "s3":
        raise _refused(shown_as)
    split = urlsplit(location.endpoint or "https://s3.amazonaws.com")
    host = split.netloc.lower()
    host = host.removesuffix({"http": ":80", "https": ":443"}.get(split.scheme, ""))
    if host == "storage.googleapis.com":
        return ImageReference("store", "gs", (location.bucket, *key))
    before = tuple(part for part in split.path.split("/") if part)
    return ImageReference("store", "s3", (host, *before, location.bucket, *key))


def web_parts(path: str) -> tuple[str, ...] | None:
    """The parts of a web address's path, each letter in one spelling (RFC 3986, 6.2.2).

    None for a path that servers read in more than one way: with empty parts, or with a slash or
    a backslash that is spelt out.
    """
    if re.search(r"//|\\|%(2f|5c|00)", path, re.IGNORECASE):
        return None
    parts = []
    for part in path.removeprefix("/").split("/"):
        plain = unquote_to_bytes(part.encode("utf-8", "surrogatepass"))
        if plain.partition(b";")[0] in (b".", b".."):  # what follows is a parameter, for some
            return None
        parts.append(quote(plain, safe="!$&'()*+,;=:@~"))
    return tuple(parts)


def changes(reference: str) -> bool:
    """Whether another image may stand under that normal form tomorrow."""
    return re.search(r"@sha256:[0-9a-f]{64}$|:sha256\.[0-9a-f]{64}$", reference) is None


def image_setup_from(raw: Mapping[str, Any] | None) -> ImageSetup:
    """An ImageSetup from its ``dataclasses.asdict`` form; plans from before there was one: None."""
    if raw is None:
        return NO_IMAGES
    return ImageSetup(**{**raw, "plain_http": tuple(raw["plain_http"])})


def registry_host(text: str) -> tuple[str, bool]:
    """A registry's host in normal form, and whether it is one: ``name`` alone is none.

    By Docker's rule the first part of a reference is a host if it holds ``.`` or ``:``, or is
    ``localhost``.
    """
    host = text.lower()
    is_host = bool(re.search(r"[.:]", host)) or host == "localhost"
    if not is_host or not _HOST.fullmatch(host) or ".." in host:
        return host, False
    name, colon, port = host.partition(":")
    if colon:
        if not 0 < int(port) < 65536:
            return host, False
        host = name if int(port) == 443 else f"{name}:{int(port)}"
    return (DOCKER_HUB if host in _HUB_NAMES else host), True


def _docker(rest: str, whole: str) -> ImageReference:
    path, tag, digest = _split(rest, whole)
    first, *others = path.split("/")
    host, is_host = registry_host(first)
    if is_host and others:
        names = others
    elif re.search(r"[.:@]", first) and others:
        raise _refused(whole)  # meant as a host, and none
    else:
        host, names = DOCKER_HUB, [first, *others]
    if host == DOCKER_HUB and len(names) == 1:
        names = ["library", *names]
    return _oci("docker", host, names, tag, digest, whole)


def _oras(rest: str, whole: str) -> ImageReference:
    path, tag, digest = _split(rest, whole)
    first, *names = path.split("/")
    host, is_host = registry_host(first)
    if not is_host or not names:
        raise ImageRefused(
            f"no registry in {shown(whole, 200)}",
            where=WHERE,
            remedy="write oras://host/name:tag",
        )
    return _oci("oras", host, names, tag, digest, whole)


def _oci(
    scheme: str, host: str, names: list[str], tag: str, digest: str, whole: str
) -> ImageReference:
    if digest and not _DIGEST.fullmatch(digest):
        raise _refused(whole)
    if not all(_OCI_NAME.fullmatch(name) for name in names):
        raise _refused(whole)
    # With a digest the tag says nothing more, and runtimes refuse both together.
    tag = "" if digest else tag or "latest"
    return ImageReference("registry", scheme, (host, *names), tag, digest)


def _library(rest: str, whole: str) -> ImageReference:
    """``[[entity/]collection/]name[:tag]``, with a host before three parts."""
    found = re.fullmatch(r"(.*):(sha256[.:][0-9a-f]{64})", rest)
    path, tag, digest = (found[1], "", found[2]) if found else _split(rest, whole)
    parts = path.lstrip("/").split("/") if path.startswith("/") else path.split("/")
    if len(parts) == 4:
        parts[0], is_host = registry_host(parts[0])
        if not is_host:
            raise _refused(whole)
        names = parts[1:]
    elif len(parts) <= 3:
        names = parts
        if len(parts) > 1 and "." in parts[0]:
            raise _refused(whole)  # reads as a host, and would be none
        if len(parts) == 1:
            parts = names = ["library", "default", *parts]
    else:
        raise _refused(whole)
    if not all(_NAME.fullmatch(name) and ".." not in name for name in names):
        raise _refused(whole)
    if digest:
        match = _LIBRARY_DIGEST.fullmatch(digest)
        if match is None:
            raise _refused(whole)
        return ImageReference("registry", "library", tuple(parts), "", f"sha256:{match[1]}")
    return ImageReference("registry", "library", tuple(parts), tag or "latest")


def _shub(rest: str, whole: str) -> ImageReference:
    """``[host/]user/name[:tag][@digest]``; a digest there is an MD5 or a commit, so no pin."""
    path, tag, digest = _split(rest, whole)
    parts = path.split("/")
    if len(parts) > 2:
        host, is_host = registry_host(parts[0])
        if not is_host:
            raise _refused(whole)
        parts = parts[1:] if host == _SHUB_HOST else [host, *parts[1:]]
    names = parts[-2:] if len(parts) == 3 else parts
    if len(names) != 2 or not all(_NAME.fullmatch(n) and ".." not in n for n in names):
        raise _refused(whole)
    if "." in names[0]:
        raise _refused(whole)  # reads as a host, and would be none
    if digest and not _SHUB_DIGEST.fullmatch(digest):
        raise _refused(whole)
    tag = (tag or "latest") + (f"@{digest}" if digest else "")
    return ImageReference("registry", "shub", tuple(parts), tag)


def _split(rest: str, whole: str) -> tuple[str, str, str]:
    """Path, tag and digest; a colon before the last slash belongs to a host's port."""
    path, at, digest = rest.partition("@")
    head, slash, last = path.rpartition("/")
    name, colon, tag = last.partition(":")
    if (at and not digest) or (colon and not _TAG.fullmatch(tag)):
        raise _refused(whole)
    return f"{head}{slash}{name}", tag, digest


def _file(path: str, whole: str) -> ImageReference:
    if _climbs(path) or _UNPRINTABLE.search(path) or not path.strip("/"):
        raise _refused(whole)
    normal = posixpath.normpath(path).lstrip("/")
    return ImageReference("file", "file", tuple(normal.split("/")))


def _climbs(path: str) -> bool:
    return bool({".", ".."} & set(path.split("/")))


def _refused(qualified: str) -> ImageRefused:
    harmless = re.sub(r"//[^/@]*@", "//…@", qualified)  # no password in an error's text
    scheme, mark, _ = qualified.partition("://")
    if qualified.startswith("/") or (mark and scheme.lower() in _SCHEMES):
        return ImageRefused(
            f"not an address of one image: {shown(harmless, 200)}",
            where=WHERE,
            remedy="registries' names are in lower case; no '..', no empty part, no space or "
            "other mark that could be read in two ways",
        )
    return ImageRefused(
        f"not a container image: {shown(harmless, 200)}",
        where=WHERE,
        remedy=f"allowed: {ALLOWED}",
    )
