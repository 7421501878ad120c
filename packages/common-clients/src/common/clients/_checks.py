"""Checks of what a component is constructed with: each names the field and the fix."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

T = TypeVar("T")


def fits(pattern: re.Pattern[str], value: object) -> bool:
    """Whether it is text, all of which the pattern matches."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def finite(field: str, value: object, *, above: float | None = None, least: float = 0.0) -> None:
    """Refuse what is no finite number, or too small.

    Raises:
        ValueError: Naming the field and what it may be.
    """
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if above is not None and not (math.isfinite(number) and number > above):
        raise ValueError(f"{field}={value!r}: give a finite number above {above:g}")
    if above is None and not (math.isfinite(number) and number >= least):
        raise ValueError(f"{field}={value!r}: give a finite number of at least {least:g}")


def share(field: str, value: object) -> None:
    """Refuse what is no share: above 0, at most 1."""
    if not (isinstance(value, int | float) and 0 < value <= 1):
        raise ValueError(f"{field}={value!r}: give a share above 0 and at most 1, such as 0.5")


def count(field: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number, or too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{field}={value!r}: give a whole number of at least {least}")


def no_generator(function: Callable[..., object]) -> None:
    """Refuse to decorate an async generator function: it has no single answer, and no one end.

    Raises:
        TypeError: Saying what to decorate.
    """
    if inspect.isasyncgenfunction(function):
        raise TypeError("an async generator has no single answer: decorate what it calls")


def chosen(value: object, kind: type[T], default: Callable[[], T], field: str) -> T | None:
    """Return an option that may be given whole, as true for its default, or as false for none.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, bool):
        return default() if value else None
    if isinstance(value, kind):
        return value
    raise ValueError(f"{field}: give {kind.__name__}(...), True for the default, False for none")
