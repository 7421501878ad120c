"""The ``tracestate`` header of W3C Trace Context, level 2 (section 3.3)."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MEMBERS = 32
MAX_LENGTH = 512  # characters sent on; the specification asks for at least as many
LONG_MEMBER = 128  # longer ones are the first to go
MAX_HEADER = 32_768  # characters looked at: 32 members of full size, with room for whitespace

_KEY_START = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_KEY = _KEY_START | frozenset("_-*/@")
_VALUE = frozenset(map(chr, range(0x20, 0x7F))) - frozenset(",=")


def valid_member(key: str, value: str) -> bool:
    """Tell whether ``key=value`` may be a list member."""
    return (
        0 < len(key) <= 256
        and key[0] in _KEY_START
        and _KEY.issuperset(key)
        and 0 < len(value) <= 256
        and _VALUE.issuperset(value)
        and value[-1] != " "
    )


def parse_tracestate(headers: str | Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the members of one or several ``tracestate`` headers, in their order.

    Empty members are skipped. Of a repeated key the first member is kept, which is the most
    recent one. One invalid member, or more than 32, discards the whole state, as the
    specification's test suite demands; nothing is ever raised.

    Example:
        >>> parse_tracestate("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE")
        (('rojo', '00f067aa0ba902b7'), ('congo', 't61rcWkgMzE'))
    """
    combined = headers if isinstance(headers, str) else ",".join(headers)
    if len(combined) > MAX_HEADER:
        return ()
    members: dict[str, str] = {}
    count = 0
    for text in combined.split(","):
        member = text.strip(" \t")
        if not member:
            continue
        count += 1
        key, equals, value = member.partition("=")
        if count > MAX_MEMBERS or not equals or not valid_member(key, value):
            return ()
        members.setdefault(key, value)
    return tuple(members.items())


def format_tracestate(members: Iterable[tuple[str, str]], *, limit: int = MAX_LENGTH) -> str:
    """Return the header for ``members``, shortened to ``limit`` characters by whole members.

    Members over 128 characters go first, then those at the end (section 3.3.1.5).

    Example:
        >>> format_tracestate([("a", "1"), ("b", "2" * 200), ("c", "3")], limit=100)
        'a=1,c=3'
    """
    kept = [f"{key}={value}" for key, value in members]
    length = sum(map(len, kept)) + max(len(kept) - 1, 0)
    for removable in (LONG_MEMBER, 0):
        for index in range(len(kept) - 1, -1, -1):
            if length <= limit:
                return ",".join(kept)
            if len(kept[index]) > removable:
                length -= len(kept.pop(index)) + 1
    return ",".join(kept)
