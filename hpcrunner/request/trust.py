"""Which image a request gets: its own or the site's, trusted and pinned by the site. Pure.

Prefixes and pins are compared with an image's normal form (image.py), part by part, so that
neither another spelling nor a longer name passes for what the site has named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from hpcrunner.request.errors import RequestError, shown
from hpcrunner.request.image import (
    DOCKER_HUB,
    WHERE,
    ImageReference,
    ImageRefused,
    PlannedImage,
    parse_image,
    registry_host,
    stored_image,
    web_parts,
)
from hpcrunner.request.location import Location
from hpcrunner.request.model import Artifact, Request, Resources
from hpcrunner.request.resolve import USUAL, StoreRules, resolve_artifact
from hpcrunner.request.s3_endpoint import endpoint_of_host
from hpcrunner.request.stores import CONTAINER

_RESOLVED = re.compile(r"(s3|gs|https?|file):", re.IGNORECASE)
_DIGEST = re.compile(r"(?:sha256[:.])?([0-9a-f]{64})", re.IGNORECASE)
_BY_REGISTRY_DIGEST = ("docker", "oras")


@dataclass(frozen=True, slots=True)
class Prefix:
    """Images whose first parts are these; with a tag or digest, that very image."""

    scheme: str
    parts: tuple[str, ...]
    tag: str = ""
    digest: str = ""

    def covers(self, image: ImageReference) -> bool:
        """Whether it names this image, or a folder that the image is in."""
        if self.scheme != image.scheme:
            return False
        if self.tag or self.digest:
            return (self.parts, self.tag, self.digest) == (image.parts, image.tag, image.digest)
        return image.parts[: len(self.parts)] == self.parts


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What the site says about which images run.

    ``default`` is the image of requests that bring none ("": they run without). ``trusted``: None
    trusts any. ``pinned`` maps an image's normal form to a SHA-256 (hex): of the manifest for
    ``docker`` and ``oras``, else of the image file. ``signed``: only images with a signature.
    """

    default: str = ""
    trusted: tuple[Prefix, ...] | None = None
    pinned: tuple[tuple[str, str], ...] = ()
    signed: bool = False


ANY_IMAGE = ImageRules()


def planned_image(
    request: Request, rules: ImageRules = ANY_IMAGE, stores: StoreRules = USUAL
) -> PlannedImage | None:
    """The image that the request's payload runs in; None for none.

    The site's own image needs no prefix to be trusted. Raises ImageRefused, or RequestError
    where the address in a store cannot be made out.
    """
    artifact = request.artifact(CONTAINER)
    if artifact is None:
        if not rules.default:
            return None
        return _pinned(parse_image(rules.default), None, rules)
    image, location = _image_of(request, artifact, stores)
    if rules.trusted is not None and not any(p.covers(image) for p in rules.trusted):
        raise ImageRefused(
            f"the site does not trust {shown(image.text, 200)}",
            where=WHERE,
            remedy="use an image that container.trusted of the site file names",
        )
    planned = _pinned(image, location, rules)
    if artifact.web is not None and image.kind == "registry":
        planned = replace(planned, user=artifact.web.user, password=artifact.web.password)
    return planned


def named_image(address: str, rules: ImageRules, stores: StoreRules = USUAL) -> PlannedImage:
    """The image that an address alone names, as a request without credentials would."""
    artifact = Artifact(CONTAINER, mutable=False, qualified=address)
    request = Request(key="", filename=None, args=(), artifacts=(artifact,), resources=Resources())
    planned = planned_image(request, rules, stores)
    if planned is None:
        raise AssertionError("a request with an image has one")
    return planned


def parse_prefix(text: str) -> Prefix:
    """A prefix as a site file has it. Raises ImageRefused for what could cover no image.

    ``docker://tensorflow/`` is a folder of images, ``docker://tensorflow/serving`` one image with
    all its tags, ``docker://registry.example`` all that is there, ``docker://`` all of Docker's.
    """
    scheme, mark, rest = text.partition("://")
    scheme = {"dockerhub": "docker"}.get(scheme.lower(), scheme.lower())
    if text == "/" or (scheme == "file" and mark and rest == "/"):
        return Prefix("file", ())
    if not text.startswith("/") and mark and not rest:
        parse_image(f"{scheme}://a.example/b/c")  # is there such a scheme?
        return Prefix(scheme, ())
    if scheme in ("s3", "gs", "http", "https") and mark:
        return Prefix(scheme, _stored_parts(scheme, rest, text))
    if scheme in ("docker", "oras"):
        host, is_host = registry_host(rest.rstrip("/"))
        if is_host and (rest.endswith("/") or host == DOCKER_HUB or re.search(r"[.:]", rest)):
            return Prefix(scheme, (host,))
    if rest.endswith("/") and mark and scheme != "file":
        return Prefix(scheme, _folder(scheme, rest, text))
    image = parse_image(text)
    tag = image.tag if text.endswith(f":{image.tag}") else ""
    return Prefix(image.scheme, image.parts, tag, image.digest)


def parse_pin(image: str, digest: str) -> tuple[str, str]:
    """A pin of the site as the image's normal form and the hex digits. Raises ImageRefused."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ImageRefused(
            f"no SHA-256: {shown(digest, 80)}", where=image, remedy="write sha256: and 64 digits"
        )
    parsed = parse_image(image)
    if parsed.kind == "store":
        rest = image.partition("://")[2]
        parsed = replace(parsed, parts=_stored_parts(parsed.scheme, rest, image))
    return parsed.text, found[1].lower()


def parse_registry(text: str) -> str:
    """A registry's host in normal form. Raises ImageRefused."""
    host, is_host = registry_host(text)
    if not is_host:
        raise ImageRefused(
            f"no host of a registry: {shown(text, 80)}",
            where="container.plain_http",
            remedy="write host:port as images name it",
        )
    return host


def check_default(image: str) -> str:
    """The site's default image itself. Raises ImageRefused for one in a store with keys."""
    parsed = parse_image(image)
    if parsed.kind == "store":
        raise ImageRefused(
            f"{shown(image, 200)} would need a request's own keys",
            where="container.image",
            remedy="name an image of a registry, or a file",
        )
    return image


def _image_of(
    request: Request, artifact: Artifact, stores: StoreRules
) -> tuple[ImageReference, Location | None]:
    address = artifact.url or artifact.qualified
    if address and not _RESOLVED.match(address):
        image = parse_image(address)
        if image.kind == "registry":
            return image, None
        return image, Location("file", image.text)
    # An image is only read, whatever the artifact says.
    location = resolve_artifact(request, replace(artifact, mutable=False), stores)
    if location is None:
        raise ImageRefused("names no image", where=WHERE, remedy="send its address as qualified")
    return stored_image(location), location


def _pinned(image: ImageReference, location: Location | None, rules: ImageRules) -> PlannedImage:
    pin = dict(rules.pinned).get(image.text, "")
    if rules.signed and image.scheme == "docker":
        raise ImageRefused(
            f"{shown(image.text, 200)} carries no signature, which the site demands",
            where=WHERE,
            remedy="use a signed SIF image: library://, oras://, a store's or a file",
        )
    if image.kind == "file" and location is None:
        location = Location("file", image.text)
    if image.scheme in _BY_REGISTRY_DIGEST and pin:
        image = replace(image, tag="", digest=f"sha256:{pin}")
        pin = ""
    elif image.scheme == "library" and image.digest:
        pin = image.digest.removeprefix("sha256:")
    return PlannedImage(image.text, location, digest=pin)


def _stored_parts(scheme: str, rest: str, whole: str) -> tuple[str, ...]:
    """Host or bucket and the folders below it, as ``stored_image`` has them."""
    first, _, path = rest.partition("/")
    host = first.lower()
    parts = tuple(part for part in path.split("/") if part)
    if not first or {".", ".."} & set(parts) or re.search(r"[@?#\\]", first):
        raise _no_prefix(whole)
    if scheme == "gs":
        return (first, *parts)
    if scheme in ("http", "https"):
        try:
            netloc = urlsplit(f"{scheme}://{host}").netloc
        except ValueError:  # an IPv6 address that is none
            raise _no_prefix(whole) from None
        spelt = web_parts(f"/{'/'.join(parts)}")
        if spelt is None or re.search("[?#]", path):
            raise _no_prefix(whole)
        host = netloc.removesuffix({"http": ":80", "https": ":443"}[scheme])
        return (host, *filter(None, spelt))
    if not re.search(r"[.:]|^localhost$", host):
        return ("s3.amazonaws.com", first, *parts)
    try:
        endpoint = endpoint_of_host(host, where=whole)
    except RequestError:
        raise _no_prefix(whole) from None
    host = urlsplit(endpoint.url).netloc if endpoint.url else "s3.amazonaws.com"
    return (host.removesuffix(":80").removesuffix(":443"), *parts)


def _folder(scheme: str, rest: str, whole: str) -> tuple[str, ...]:
    """``tensorflow/`` of ``docker://tensorflow/``: as an image in it would have it."""
    inside = parse_image(f"{scheme}://{rest}x" if scheme != "library" else f"library://{rest}x")
    if inside.scheme == "library" and rest.count("/") == 1:
        return (rest.rstrip("/"),)  # an entity, not a collection of nobody's
    if not inside.parts[:-1]:
        raise _no_prefix(whole)
    return inside.parts[:-1]


def _no_prefix(text: str) -> ImageRefused:
    return ImageRefused(
        f"covers no image: {shown(text, 200)}",
        where="container.trusted",
        remedy="write such as docker://tensorflow/ or /apps/images/",
    )
