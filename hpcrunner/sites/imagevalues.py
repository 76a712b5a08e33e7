"""The kinds of values that speak of container images: see values.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from hpcrunner.request.image import ImageRefused
from hpcrunner.request.trust import check_default, parse_pin, parse_prefix, parse_registry
from hpcrunner.sites.values import Allowed


def _prefix(value: str) -> str:
    try:
        parse_prefix(value)
    except ImageRefused as error:
        raise ValueError(error.what) from None
    return value


def _image(value: str) -> str:
    try:
        return check_default(value)
    except ImageRefused as error:
        raise ValueError(error.what) from None


def _pinned_image(value: str) -> str:
    try:
        parse_pin(value, "0" * 64)
    except ImageRefused as error:
        raise ValueError(error.what) from None
    return value


def _digest(value: str) -> str:
    try:
        parse_pin("/any.sif", value)
    except ImageRefused as error:
        raise ValueError(error.what) from None
    return value


def _registry(value: str) -> str:
    try:
        return parse_registry(value)
    except ImageRefused as error:
        raise ValueError(error.what) from None


ImagePrefix = Annotated[
    str,
    AfterValidator(_prefix),
    Allowed("the first parts of images' addresses, such as docker://tensorflow/ or /apps/images/"),
]
SiteImage = Annotated[
    str, AfterValidator(_image), Allowed("an image of a registry, or an absolute path")
]
PinnedImage = Annotated[str, AfterValidator(_pinned_image), Allowed("an image's address")]
ImageDigest = Annotated[str, AfterValidator(_digest), Allowed("sha256: and 64 hexadecimal digits")]
Registry = Annotated[
    str, AfterValidator(_registry), Allowed("a registry's host:port, as images name it")
]
