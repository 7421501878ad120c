"""New identifiers, and the rule for those that come from outside."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from common.context._digits import random_digits

MAX_ID = 128  # characters
_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # RFC 9562: bits 10, then random


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

    Ids of one process ascend strictly, also when the clock goes back.

    Example:
        >>> first, second = new_id(), new_id()
        >>> first < second, len(first), first[14]
        (True, 36, '7')
    """
    global _tick  # noqa: PLW0603
    # Milliseconds with 12 bits of their fraction, then 62 random bits: section 6.2, method 3.
    tick = (time.time_ns() << 12) // 1_000_000
    with _lock:
        _tick = tick = tick if tick > _tick else _tick + 1
    digits, random = f"{tick:015x}", random_digits()
    node = f"{_VARIANT[random[0]]}{random[1:4]}-{random[4:]}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[12:]}-{node}"


def _renew() -> None:
    global _lock  # noqa: PLW0603 - a forked child must not wait for a thread that it lacks
    _lock = allocate_lock()


_tick = 0
_lock = allocate_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
