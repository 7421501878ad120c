"""Headers, sent and received."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from uuid import UUID

from common.clients._checks import fits
from common.errors import ValidationError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"(?![ \t])[\x20-\x7e\t]{0,8192}(?<![ \t])")  # RFC 9110, section 5.5
_KEY = re.compile(r"[\x21\x23-\x7e]{1,255}")
# They say where a message ends and where it goes: two opinions on that are an attack.
OURS = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding",
     "upgrade", "proxy-connection", "expect"}
)  # fmt: skip


class Headers(Mapping[str, str]):
    """Headers of a response: names in any case, repeated ones joined with commas.

    Example:
        >>> headers = Headers([("ETag", "a"), ("Vary", "Accept"), ("vary", "Origin")])
        >>> headers["etag"], headers["Vary"], "x" in headers
        ('a', 'Accept, Origin', False)
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs: dict[str, list[str]] = {}
        for name, value in pairs:
            self._pairs.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._pairs[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def get_list(self, name: str) -> list[str]:
        """Return all values of a header, such as ``Set-Cookie``, whose commas do not separate."""
        return list(self._pairs.get(name.lower(), ()))

    def __repr__(self) -> str:
        return f"Headers({sorted(self._pairs)})"  # values may be secrets


def checked(headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Return a caller's headers, if they can be sent as they are.

    Raises:
        TypeError: If a name or value is no text.
        ValueError: If a header is one that the client sets.
        ValidationError: If a name or value could end its line, or is too long. The message does
            not show the value.
    """
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, value in (headers or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"headers= has a name that is {type(name).__name__}: give text")
        if not fits(_NAME, name):
            raise ValidationError("a header has a name that cannot be sent", field="headers")
        if name.lower() in OURS:
            raise ValueError(f"the header {name} is set by the client: leave it out")
        if not isinstance(value, str):
            raise TypeError(f"headers={{{name!r}: …}} is {type(value).__name__}: give text")
        if not fits(_VALUE, value):
            raise ValidationError(f"the header {name} has a value that cannot be sent", field=name)
        if name.lower() in seen:
            raise ValueError(f"the header {name} is given twice, in different case")
        seen.add(name.lower())
        pairs.append((name, value))
    return pairs


def checked_key(key: str | UUID) -> str:
    """Return an idempotency key, if it can be sent as it is.

    Raises:
        TypeError: If it is neither text nor a UUID.
        ValidationError: If it is empty, over 255 characters, or has others than visible ASCII
            without quotes.
    """
    if isinstance(key, UUID):
        return str(key)
    if not isinstance(key, str):
        raise TypeError(f"idempotency_key= is {type(key).__name__}: give text or a UUID")
    if not fits(_KEY, key):
        raise ValidationError(
            "an idempotency key is 1 to 255 visible ASCII characters without quotes",
            field="idempotency_key",
        )
    return key
