"""Not calling what is known to fail."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from common.clients._checks import (
    Kinds,
    awaited,
    check_kinds,
    count,
    finite,
    label,
    of_kind,
    share,
)
from common.clients._errors import REFUSALS
from common.clients._window import Window
from common.context import DeadlineExceeded, operation, remaining
from common.errors import AppError, CircuitOpenError, InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")
State = Literal["closed", "open", "half_open"]
_Call: TypeAlias = tuple[int, float]  # generation, and when it began

_CALLS, _FAILURES, _SLOW = range(3)


def is_failure(error: Exception) -> bool:
    """Tell whether an error says that the dependency is not well.

    An `InfrastructureError` does if it is retryable, any other `AppError` does not: who answers
    "not found" is alive. What was refused on this side (circuit open, bulkhead full) says
    nothing. Everything else counts as failure.
    """
    if isinstance(error, REFUSALS):
        return False
    if isinstance(error, InfrastructureError):
        return error.retryable
    return not isinstance(error, AppError)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSnapshot:
    """What a breaker knew at one instant.

    Attributes:
        name: Its name.
        state: ``"closed"``, ``"open"`` or ``"half_open"``.
        calls: Calls that ended within the window.
        failures: Those of them that failed.
        slow_calls: Those of them that were slow.
        open_until: When it lets the next probe through; ``None`` unless open.
    """

    name: str
    state: State
    calls: int
    failures: int
    slow_calls: int
    open_until: datetime | None


class Breaker:
    """Circuit breaker: stops calling a dependency that fails, and tries it again later.

    *Closed*, it counts calls over a sliding window; when enough of them fail or are slow, it
    opens. *Open*, it raises `CircuitOpenError` at once. After ``open_for`` seconds it is
    *half open*: at most ``probes`` calls at a time go through. As many successes close it, one
    failure opens it again, for twice as long up to ``open_maximum``. Those times vary at random
    by a fifth, so that many instances do not probe at once.

    Use it as ``async with breaker:`` or as a decorator, ``@breaker``; share one per dependency,
    within one event loop. Calls that were cancelled count as nothing, and give their probe
    back. So do calls that ended by the caller's deadline before ``patience``: a caller that had
    little time to give must not open the circuit for all others. Results of calls begun before
    the last change of state do not count. Give calls a timeout: one that never ends keeps its
    probe.

    Each change of state is an operation ``internal: breaker`` with ``breaker.name``,
    ``breaker.state``, ``breaker.previous``, ``breaker.calls``, ``breaker.failures`` and
    ``breaker.slow_calls``, for whoever observes operations.

    Args:
        name: Of the dependency; stands in errors and operations.
        failure_ratio: Share of calls in the window that must fail.
        minimum_calls: With fewer calls in the window it stays closed.
        window: Seconds over which calls are counted.
        slow_call: Seconds from which on a call is slow; ``None``: none is.
        slow_ratio: Share of calls in the window that must be slow.
        open_for: Seconds until the first probe.
        open_maximum: Most seconds between probes.
        probes: Calls let through at a time when half open, and successes needed to close.
        patience: Seconds that a call ended by its caller's deadline must have had to count as
            failure.
        counts: Which errors are failures: exception types, or a function of the exception; by
            default `is_failure`.
        clock: Seconds that never go back, for tests.

    Raises:
        ValueError: If an option is out of range.
        TypeError: If ``counts`` is neither a type nor a plain function.

    Example:
        >>> breaker = Breaker("billing", minimum_calls=2)
        >>> @breaker
        ... async def call() -> None:
        ...     raise ConnectionResetError
        >>> async def main() -> None:
        ...     for _ in range(3):
        ...         try:
        ...             await call()
        ...         except (ConnectionResetError, CircuitOpenError) as error:
        ...             print(type(error).__name__)
        >>> asyncio.run(main())
        ConnectionResetError
        ConnectionResetError
        CircuitOpenError
    """

    def __init__(
        self,
        name: str,
        *,
        failure_ratio: float = 0.5,
        minimum_calls: int = 20,
        window: float = 10.0,
        slow_call: float | None = None,
        slow_ratio: float = 0.8,
        open_for: float = 5.0,
        open_maximum: float = 60.0,
        probes: int = 1,
        patience: float = 1.0,
        counts: Kinds = is_failure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        label("name", name)
        share("failure_ratio", failure_ratio)
        share("slow_ratio", slow_ratio)
        count("minimum_calls", minimum_calls)
        count("probes", probes)
        finite("window", window, above=0)
        finite("open_for", open_for, above=0)
        finite("open_maximum", open_maximum, least=open_for)
        finite("patience", patience)
        if slow_call is not None:
            finite("slow_call", slow_call, above=0)
        check_kinds("counts", counts)
        self.name = name
        self._failure_ratio = failure_ratio
        self._minimum_calls = minimum_calls
        self._slow_call = slow_call
        self._slow_ratio = slow_ratio
        self._open_for = open_for
        self._open_maximum = open_maximum
        self._probes = probes
        self._patience = patience
        self._counts = counts
        self._clock = clock
        self._window = Window(window, 3, clock)
        self._state: State = "closed"
        self._generation = 0
        self._open_until = 0.0
        self._trips = 0
        self._failures = 0
        self._probing = 0
        self._successes = 0
        # By task, since the result of one call must not be taken for that of another.
        self._running: dict[asyncio.Task[Any] | None, list[_Call]] = {}

    @property
    def state(self) -> State:
        """``"closed"``, ``"open"`` or ``"half_open"``, as the next call will find it."""
        if self._state == "open" and self._clock() >= self._open_until:
            self._change("half_open")
        return self._state

    def snapshot(self) -> BreakerSnapshot:
        """Return what it knows now."""
        state = self.state
        calls, failures, slow = self._window.read()
        return BreakerSnapshot(
            name=self.name,
            state=state,
            calls=calls,
            failures=failures,
            slow_calls=slow,
            open_until=self._instant() if state == "open" else None,
        )

    def check(self) -> None:
        """Raise if a call would be refused now; take no probe.

        Raises:
            CircuitOpenError: If it is open, or half open with all probes taken.
        """
        if self._state == "closed":
            return
        if self.state == "open" or (self._state == "half_open" and self._probing >= self._probes):
            raise self._refusal()

    async def __aenter__(self) -> None:
        call = self._begin()
        self._running.setdefault(asyncio.current_task(), []).append(call)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(self._ended(), error)

    def __call__(
        self, function: Callable[P, Awaitable[T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate a coroutine function.

        Raises:
            TypeError: If it is none.
        """
        awaited(function)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            call = self._begin()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                self._end(call, error)
                raise
            self._end(call, None)
            return result

        return guarded

    def __repr__(self) -> str:
        return f"Breaker({self.name!r}, state={self._state!r})"

    def _begin(self) -> _Call:
        if self._state != "closed":
            self.check()
            if self._state == "half_open":
                self._probing += 1
        return self._generation, self._clock()

    def _end(self, call: _Call, error: BaseException | None) -> None:
        generation, started = call
        if generation != self._generation:
            return
        half_open = self._state == "half_open"
        if half_open:
            self._probing -= 1
        now = self._clock()
        failed = False if error is None else self._judge(error, now - started)
        if failed is None:
            return
        slow = self._slow_call is not None and now - started >= self._slow_call
        if half_open:
            self._probed(failed=failed or slow)
        elif failed or slow:
            self._count(failed=failed, slow=slow, now=now)
        else:
            self._window.add(_CALLS, now=now)

    def _ended(self) -> _Call:
        task = asyncio.current_task()
        # A body that ends in another task than it began in, as that of an async generator may:
        # the permits are counted right, whichever call is taken for it.
        if task not in self._running:
            task = next(iter(self._running))
        calls = self._running[task]
        call = calls.pop()
        if not calls:
            del self._running[task]
        return call

    def _judge(self, error: BaseException, took: float) -> bool | None:
        """Whether it failed; None if that is not known."""
        if isinstance(error, asyncio.CancelledError | DeadlineExceeded):
            # An enforced deadline ends its body by cancellation.
            late = isinstance(error, DeadlineExceeded) or remaining() == 0
            return True if late and took >= self._patience else None
        if not isinstance(error, Exception) or isinstance(error, REFUSALS):
            return None
        return of_kind(error, self._counts)

    def _count(self, *, failed: bool, slow: bool, now: float) -> None:
        counters = (_CALLS, *((_FAILURES,) if failed else ()), *((_SLOW,) if slow else ()))
        calls, failures, slow_calls = self._window.add(*counters, now=now)
        if calls >= self._minimum_calls and (
            failures >= self._failure_ratio * calls or slow_calls >= self._slow_ratio * calls
        ):
            self._failures = failures
            self._open()

    def _probed(self, *, failed: bool) -> None:
        if failed:
            self._failures += 1
            self._open()
            return
        self._successes += 1
        if self._successes >= self._probes:
            self._trips = 0
            self._change("closed")

    def _open(self) -> None:
        lasting = min(self._open_for * 2 ** min(self._trips, 30), self._open_maximum)
        lasting *= 0.8 + 0.4 * random.random()  # noqa: S311 - spreads instances, keeps no secret
        self._trips += 1
        self._open_until = self._clock() + lasting
        self._change("open")

    def _change(self, state: State) -> None:
        previous, self._state = self._state, state
        self._generation += 1
        self._probing = self._successes = 0
        calls, failures, slow = self._window.read()
        facts = {
            "breaker.name": self.name,
            "breaker.state": state,
            "breaker.previous": previous,
            "breaker.calls": calls,
            "breaker.failures": failures,
            "breaker.slow_calls": slow,
        }
        if state == "closed":
            self._window.clear()
        with operation("internal", "breaker", facts):
            pass

    def _instant(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=max(self._open_until - self._clock(), 0))

    def _refusal(self) -> CircuitOpenError:
        return CircuitOpenError(
            f"{self.name} is not called for now: too many calls failed or were slow",
            service=self.name,
            service_name=self.name,
            failure_count=self._failures,
            open_until=self._instant().isoformat(timespec="milliseconds"),
            retry_after=max(self._open_until - self._clock(), 0.0) or None,
        )
