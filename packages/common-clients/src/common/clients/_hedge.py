"""A second try beside a slow first one."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from common.clients._budget import RetryBudget
from common.clients._checks import awaited, finite, instance, share
from common.context import operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

SAMPLES = 200
FEWEST = 20
RENEWED = 20


class Hedge:
    """When to send a second try beside the first: only for reads that change nothing.

    Cuts the slowest answers, at the price of some load; see `The Tail at Scale`_. The first
    success wins and the other try is cancelled. A first try that fails before the delay just
    fails. What the budget does not allow is not hedged.

    .. _The Tail at Scale: https://research.google/pubs/the-tail-at-scale/

    Args:
        after: Seconds after which the second try starts.
        percentile: In place of ``after``: the share of calls that should be quicker than the
            delay, which is then measured over the last 200 successful calls. Until 20 were
            measured there is no second try. Use one `Hedge` per kind of call then.
        budget: What all calls may spend on second tries; by default one of its own. A
            `ServiceClient` uses that of its `Retry`, so that both spend from the same.

    Raises:
        ValueError: If not exactly one of ``after`` and ``percentile`` is given, it is out of
            range, or ``budget`` is no `RetryBudget`.
    """

    __slots__ = ("_after", "_durations", "_fresh", "_percentile", "budget")

    def __init__(
        self,
        *,
        after: float | None = None,
        percentile: float | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        if (after is None) == (percentile is None):
            raise ValueError("give either after=seconds or percentile=share, such as 0.95")
        if after is not None:
            finite("after", after)
        if percentile is not None:
            share("percentile", percentile)
        self._after = after
        self._percentile = percentile
        self._durations: deque[float] = deque(maxlen=SAMPLES)
        self._fresh = 0
        if budget is not None:
            instance("budget", budget, RetryBudget)
        self.budget = budget or RetryBudget()

    @property
    def delay(self) -> float | None:
        """Seconds until the second try; ``None`` as long as too few calls were measured."""
        return self._after

    def measured(self, seconds: float) -> None:
        """Take note of how long a successful first try took."""
        if self._percentile is None:
            return
        self._durations.append(seconds)
        self._fresh += 1
        if len(self._durations) >= FEWEST and (self._after is None or self._fresh >= RENEWED):
            self._fresh = 0
            ordered = sorted(self._durations)
            self._after = ordered[math.ceil(self._percentile * len(ordered)) - 1]

    def __repr__(self) -> str:
        return f"Hedge(delay={self._after!r})"


def hedge(
    policy: Hedge, /
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Start a coroutine function once more when its first call is slow.

    Both run as tasks. A second try is an operation ``internal: hedge``.

    Example:
        >>> import asyncio
        >>> tries = []
        >>> @hedge(Hedge(after=0.001))
        ... async def read(key: str) -> str:
        ...     tries.append(key)
        ...     if len(tries) == 1:
        ...         await asyncio.sleep(3600)
        ...     return key
        >>> asyncio.run(read("a")), tries
        ('a', ['a', 'a'])
    """
    if not isinstance(policy, Hedge):
        raise TypeError("hedge takes a policy: write @hedge(Hedge(after=0.05))")

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        awaited(function)

        @wraps(function)
        async def hedged(*args: P.args, **kwargs: P.kwargs) -> T:
            policy.budget.deposit()
            return await race(partial(function, *args, **kwargs), policy, policy.budget)

        return hedged

    return decorate


async def race(call: Callable[[], Awaitable[T]], policy: Hedge, budget: RetryBudget) -> T:
    """Call, and once more if that takes too long; leave no task behind."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks = [_start(_first(call))]
    try:
        pending: set[asyncio.Task[T]] = set(tasks)
        await asyncio.wait(pending, timeout=policy.delay)
        if not tasks[0].done() and budget.withdraw():
            tasks.append(_start(_second(call)))
            pending.add(tasks[1])
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is None:
                    # Of a first try that lost, it is only known that it takes longer.
                    policy.measured(loop.time() - began)
                    return task.result()
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _first(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


async def _second(call: Callable[[], Awaitable[T]]) -> T:
    with operation("internal", "hedge"):
        return await call()


def _start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    # What the loser raises is nobody's concern; asyncio would log it.
    if not task.cancelled():
        task.exception()
