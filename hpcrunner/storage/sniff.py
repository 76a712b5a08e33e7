"""What bytes are, by how they begin: names of archives lie, and error pages come as answers."""

from __future__ import annotations

HEAD = 512
"""How many bytes to look at: one block of a tar."""

GZIP = b"\x1f\x8b"
BZIP2 = b"BZh"
XZ = b"\xfd7zXZ\x00"
LZMA = b"\x5d\x00\x00"
USTAR = b"ustar"
"""At offset 257 (POSIX.1-2017, pax: ustar Interchange Format)."""
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # with members; empty

_BINARY = (
    (GZIP, "gzip data"),
    (BZIP2, "bzip2 data"),
    (XZ, "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data, which is not supported"),
    (b"\x04\x22\x4d\x18", "lz4 data, which is not supported"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not supported"),
    (b"PK", "a zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"age-encryption.org/", "encrypted data"),
    (b"-----BEGIN PGP", "encrypted data"),
)


def described(head: bytes) -> str:
    """A few words for people on what begins like this; never the content itself."""
    if not head:
        return "nothing (no bytes)"
    for magic, words in _BINARY:
        if head.startswith(magic):
            return words
    try:
        text = head.decode("utf-8").lstrip("\ufeff \t\r\n").lower()
    except UnicodeDecodeError as error:
        # A character cut in two by the end of what is looked at is still text.
        if error.start < len(head) - 3 or b"\0" in head:
            return f"binary data that begins with {head[:8].hex(' ')}"
        text = ""
    if "\0" in text:
        return f"binary data that begins with {head[:8].hex(' ')}"
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "an HTML page"
    if text.startswith("<"):
        return "an XML document"
    return "JSON text" if text.startswith(("{", "[")) else "text"
