"""New identifiers, and the rule for those that come from outside."""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock

MAX_ID = 128  # characters
_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def valid_id(value: object) -> bool:
    r"""Tell whether ``value`` may be taken over as an id: ``[A-Za-z0-9._-]``, 1 to 128 characters.

    Anything else could break a log line, a header or a metric.

    Example:
        >>> valid_id("req-1"), valid_id("req-1\n"), valid_id("")
        (True, False, False)
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and _ALLOWED.issuperset(value)


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562, section 5.7) as text.

    Ids of one process ascend strictly, also when the clock goes back. The standard library's
    ``uuid.uuid7`` makes them where it exists (Python 3.14).

    Example:
        >>> first, second = new_id(), new_id()
        >>> first < second, len(first), first[14]
        (True, 36, '7')
    """
    if sys.version_info >= (3, 14):
        import uuid  # noqa: PLC0415 - costly, and older Pythons do not need it

        return str(uuid.uuid7())
    return _source.next()


class _Source:
    """Milliseconds, then a counter of 42 bits, then 32 random bits (section 6.2, method 1)."""

    __slots__ = ("_counter", "_lock", "_milliseconds")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._milliseconds = 0
        self._counter = 0

    def next(self) -> str:
        random = os.urandom(10)
        now = time.time_ns() // 1_000_000
        with self._lock:
            if now > self._milliseconds:
                self._milliseconds = now
                # The highest bit is left free, so that counting on has room.
                self._counter = int.from_bytes(random[4:]) & 0x1FF_FFFF_FFFF
            else:
                self._counter += 1
                if self._counter > 0x3FF_FFFF_FFFF:
                    self._milliseconds += 1
                    self._counter = int.from_bytes(random[4:]) & 0x1FF_FFFF_FFFF
            milliseconds, counter = self._milliseconds, self._counter
        bits = milliseconds << 80 | 7 << 76 | counter >> 30 << 64 | 2 << 62
        bits |= (counter & 0x3FFF_FFFF) << 32 | int.from_bytes(random[:4])
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _renew() -> None:
    global _source  # noqa: PLW0603 - a forked child must neither share the counter nor the lock
    _source = _Source()


_source = _Source()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
