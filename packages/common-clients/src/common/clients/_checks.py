"""Checks of what a component is constructed with: each names the field and the fix."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    import re

T = TypeVar("T")
Kinds: TypeAlias = Callable[[Exception], bool] | type[Exception] | tuple[type[Exception], ...]


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


def label(field: str, value: object) -> None:
    """Refuse what is no name."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field}={value!r}: give the name of the dependency, such as 'billing'")


def instance(field: str, value: object, kind: type[object]) -> None:
    """Refuse what is not of this class."""
    if not isinstance(value, kind):
        raise ValueError(f"{field} is {type(value).__name__}: give {kind.__name__}(...)")  # noqa: TRY004 - as all other fields


def awaited(function: Callable[..., object]) -> None:
    """Refuse to decorate what cannot be awaited once: plain functions and async generators.

    Lambdas and the methods of objects may return an awaitable, as those of redis-py do, which
    only calling them would tell.

    Raises:
        TypeError: Saying what to decorate.
    """
    if inspect.isasyncgenfunction(function):
        raise TypeError("an async generator has no single answer: decorate what it calls")
    innermost = inspect.unwrap(function)
    if (
        inspect.isfunction(innermost)
        and innermost.__name__ != "<lambda>"
        and not inspect.iscoroutinefunction(function)
        and not inspect.iscoroutinefunction(innermost)
    ):
        raise TypeError(f"{innermost.__qualname__} is no coroutine function: write 'async def'")


def check_kinds(field: str, kinds: object) -> None:
    """Refuse what does not choose among exceptions; see `of_kind`.

    Raises:
        TypeError: Naming the field and what it may be.
    """
    each = kinds if isinstance(kinds, tuple) else (kinds,)
    types = [isinstance(kind, type) and issubclass(kind, Exception) for kind in each]
    function = not isinstance(kinds, tuple) and inspect.isroutine(kinds)
    if inspect.iscoroutinefunction(kinds) or not (function or (types and all(types))):
        raise TypeError(
            f"{field}={kinds!r}: give exception types, or a plain function that takes the "
            "exception and returns a bool"
        )


def of_kind(error: Exception, kinds: Kinds) -> bool:
    """Whether an exception is one of these types, or one that the function accepts."""
    return isinstance(error, kinds) if isinstance(kinds, type | tuple) else kinds(error)


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
