"""Random digits, fetched in bulk: asking the system for each id costs more than making the id."""

from __future__ import annotations

import os

_BULK = 256
_ZERO = "0" * 16
_digits: list[str] = []


def random_digits() -> str:
    """Return 16 lowercase hexadecimal digits from the system's generator, not all zero."""
    while True:
        try:
            digits = _digits.pop()  # atomic: no two threads get the same
        except IndexError:
            _digits.extend(os.urandom(8 * _BULK).hex(" ", 8).split())
        else:
            if digits != _ZERO:
                return digits


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_digits.clear)  # they are the parent's
