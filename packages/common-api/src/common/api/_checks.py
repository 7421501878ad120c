"""Checks of what a part is constructed with: each names the argument and the fix."""

from __future__ import annotations

import inspect
from functools import partial


def number(field: str, value: object, *, above: float | None = None, least: float = 0.0) -> None:
    """Refuse what is no number, or too small.

    Raises:
        ValueError: Naming the argument and what it may be.
    """
    given = float("nan")
    if isinstance(value, int | float) and not isinstance(value, bool):
        given = value
    if above is not None and not given > above:
        raise ValueError(f"{field}={value!r}: give a number above {above:g}")
    if above is None and not given >= least:
        raise ValueError(f"{field}={value!r}: give a number of at least {least:g}")


def switch(field: str, value: object) -> None:
    """Refuse what is neither true nor false: ``"no"`` would count as true.

    Raises:
        TypeError: Naming the argument.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{field}={value!r}: give True or False")


def port(field: str, value: object, methods: tuple[str, ...], example: str) -> None:
    """Refuse what does not fulfil a port, such as the class in place of an instance.

    Raises:
        TypeError: Naming the argument and something that does.
    """
    if isinstance(value, type):
        raise TypeError(f"{field}={value.__name__}: give an instance, such as {example}")
    missing = [name for name in methods if not callable(getattr(value, name, None))]
    if missing:
        raise TypeError(
            f"{field}={value!r}: it has no {' nor '.join(missing)}: give one such as {example}"
        )


def is_async(function: object) -> bool:
    """Whether it is a coroutine function, or a partial or object that is called as one."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, type):  # calling it makes an instance
        return False
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether, but which
    )
