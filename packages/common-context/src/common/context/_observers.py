"""Who is told about operations."""

from __future__ import annotations

import os
from _thread import RLock

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from typing import Protocol, Self

    from common.context._operation import Operation
else:
    Protocol = object


class Observer(Protocol):
    """Is told about operations, in the task or thread in which they happen.

    Both methods are plain functions that return quickly and never block. What they raise is
    counted and ignored. Operations that they start themselves are not observed, nor are those
    of a task or thread that inherits their context: a task started in ``on_start`` or
    ``on_end`` stays unobserved for its whole life. Start workers beforehand and hand them what
    there is to do by a queue, or give the task an empty `contextvars.Context`.
    """

    def on_start(self, op: Operation, /) -> None:
        """Take note that ``op`` starts; context variables set here hold for its body."""

    def on_end(self, op: Operation, /) -> None:
        """Take note of how ``op`` ended. Called for exactly those whose start was taken."""


class Observation:
    """An observer at work; returned by `observe`.

    Attributes:
        observer: The observer.
        failures: How often it raised.
    """

    __slots__ = ("failures", "observer")

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.failures = 0

    def close(self) -> None:
        """Stop observing; operations under way are still reported to their end. Idempotent."""
        global active  # noqa: PLW0603
        with _lock:
            active = tuple(each for each in active if each is not self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# One immutable tuple, replaced as a whole: an operation keeps the one it started with.
active: tuple[Observation, ...] = ()
_failures = 0


def _renew() -> None:
    global _lock  # noqa: PLW0603 - a forked child must not wait for a thread that it lacks
    _lock = RLock()


# Reentrant: the collector may end an operation, whose observer fails, while it is held.
_lock = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def observe(observer: Observer) -> Observation:
    """Tell ``observer`` about every operation that starts from now on, in the whole process.

    Observers are told of starts in the order of their registration, and of ends in reverse.

    Returns:
        A handle: `Observation.close` ends it, and so does the end of a ``with`` statement.

    Raises:
        TypeError: If ``on_start`` or ``on_end`` is missing or a coroutine function.
        ValueError: If it observes already: everything would be counted twice.
    """
    global active  # noqa: PLW0603
    for name in ("on_start", "on_end"):
        method = getattr(observer, name, None)
        code = getattr(method, "__code__", None)
        if not callable(method) or (code is not None and code.co_flags & 0x80):
            raise TypeError(
                f"{type(observer).__name__}.{name} must be a plain function that takes the "
                "operation; hand longer work to a queue"
            )
    observation = Observation(observer)
    with _lock:
        known = any(each.observer is observer for each in active)
        if not known:
            active = (*active, observation)
    if known:
        raise ValueError(f"{observer!r} observes already: close its first observation")
    return observation


def observer_failures() -> int:
    """Return how often observers raised since the process started."""
    return _failures


def notify_start(op: Operation) -> tuple[Observation, ...]:
    """Tell all observers of a start; return those that took it."""
    told = observations = active
    for each in observations:
        try:
            each.observer.on_start(op)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - an observer never breaks what it observes
            _count(each)
            told = tuple(other for other in told if other is not each)
    return told


def notify_end(op: Operation, observations: tuple[Observation, ...]) -> None:
    """Tell the given observers of the end."""
    for each in reversed(observations):
        try:
            each.observer.on_end(op)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - an observer never breaks what it observes
            _count(each)


def _count(observation: Observation) -> None:
    global _failures  # noqa: PLW0603
    with _lock:
        _failures += 1
        observation.failures += 1
