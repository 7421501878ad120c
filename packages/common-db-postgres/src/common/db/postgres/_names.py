"""Identifiers: quoted always, and never longer than PostgreSQL keeps them."""

import hashlib
from typing import Final

from common.errors import ValidationError

MAX_BYTES: Final = 63
"""NAMEDATALEN - 1; PostgreSQL documentation, 4.1.1."""


def quote(name: str) -> str:
    """Return ``name`` as a quoted identifier.

    Raises:
        ValidationError: It is empty, too long, or contains NUL, which nothing can quote.
    """
    if not 1 <= stored_size(name) <= MAX_BYTES:
        raise ValidationError(
            f"an identifier has 1 to {MAX_BYTES} bytes and no NUL: {name[:MAX_BYTES]!r}"
        )
    return '"' + name.replace('"', '""') + '"'


def stored_size(text: str) -> int:
    """Return how many bytes PostgreSQL needs for a text, or -1 where it can keep none of it."""
    try:
        return -1 if "\0" in text else len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return -1


def shorten(name: str) -> str:
    """Return a constraint's name as it is stored: the same if it fits, else with a digest."""
    if len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: MAX_BYTES - 9].decode(errors="ignore") + "_" + digest


def lock_key(name: str) -> int:
    """Return the 64-bit key under which an advisory lock of this name is taken."""
    text = name.encode(errors="surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=b"common.lock").digest()
    return int.from_bytes(digest, "big", signed=True)
