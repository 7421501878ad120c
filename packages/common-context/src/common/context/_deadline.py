"""The instant by which the current work must be done."""

from __future__ import annotations

import math
import time

from common.context._context import bind, current

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from asyncio import Timeout
    from types import TracebackType


class DeadlineExceeded(TimeoutError):  # noqa: N818 - the name gRPC gave to it
    """The work was not done by its deadline.

    Attributes:
        code: Stable identifier, as errors of common-errors have it.
        status: HTTP status that fits.
        retryable: ``False``: whoever set the deadline no longer waits.
    """

    code = "DEADLINE_EXCEEDED"
    status = 504
    retryable = False


class deadline:  # noqa: N801 - used like a function: a context manager
    """Give the body a number of seconds, or less where an outer deadline is nearer.

    ``async with deadline(2)`` enforces it: when the time is up, the body is cancelled and
    `DeadlineExceeded` is raised in its place, as `asyncio.timeout` does. ``with deadline(2)``
    only states it, for synchronous code: the body asks `remaining`, or calls `check_deadline`
    now and then. Either way everything called in the body sees the deadline, so that clients
    can shorten their timeouts and send it on.

    Args:
        seconds: Time to live, at least 0. Nested deadlines only shrink. To leave a deadline
            behind on purpose, for work that goes on afterwards, use ``bind(deadline=None)``.

    Raises:
        ValueError: If ``seconds`` is negative, infinite or not a number.
        DeadlineExceeded: On entry, when no time is left; the body does not start. With
            ``async with`` also when the body takes too long.

    Example:
        >>> with deadline(10), deadline(60):
        ...     9 < remaining() <= 10
        True
    """

    __slots__ = ("_bind", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"deadline({seconds}): give a finite number of seconds, at least 0")
        self._seconds = seconds
        self._bind: bind | None = None
        self._timeout: Timeout | None = None

    def __enter__(self) -> None:
        if self._bind is not None:
            raise RuntimeError("this deadline() is in use: call it again for each with statement")
        self._bind = _shrink(self._seconds)
        self._bind.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        bound, self._bind = self._bind, None
        if bound is not None:
            bound.__exit__(kind, error, traceback)

    async def __aenter__(self) -> None:
        import asyncio  # noqa: PLC0415 - costly, and running already

        self.__enter__()
        try:
            self._timeout = asyncio.timeout(remaining())
            await self._timeout.__aenter__()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
        timeout, self._timeout = self._timeout, None
        if timeout is not None:
            try:
                await timeout.__aexit__(kind, error, traceback)
            except TimeoutError:
                # Not from the TimeoutError: early releases of 3.11 give that no cause.
                raise DeadlineExceeded("the deadline was exceeded") from error


def remaining() -> float | None:
    """Return the seconds left until the deadline, at least 0; ``None`` without a deadline."""
    instant = current().deadline
    return None if instant is None else max(instant - time.monotonic(), 0.0)


def check_deadline() -> None:
    """Raise when no time is left; for loops that nobody can cancel.

    Raises:
        DeadlineExceeded: When the deadline has passed.
    """
    if remaining() == 0.0:
        raise DeadlineExceeded("the deadline was exceeded")


def _shrink(seconds: float) -> bind:
    outer = current().deadline
    instant = time.monotonic() + seconds
    if outer is not None:
        instant = min(instant, outer)
    if instant <= time.monotonic():
        raise DeadlineExceeded("no time is left before the work begins")
    return bind(deadline=instant)
