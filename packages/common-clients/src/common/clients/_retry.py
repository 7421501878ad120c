"""Repeating what failed."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from common.clients._budget import RetryBudget
from common.clients._checks import (
    Kinds,
    awaited,
    check_kinds,
    count,
    finite,
    instance,
    of_kind,
)
from common.clients._errors import REFUSALS
from common.context import operation, remaining, valid_id
from common.errors import is_retryable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

P = ParamSpec("P")
T = TypeVar("T")


def is_transient(error: Exception) -> bool:
    """Tell whether repeating the call at once makes sense.

    True for what `common.errors.is_retryable` says, except for an open circuit, a full bulkhead
    and a closed client: those are retryable later, by whoever called.
    """
    return is_retryable(error) and not isinstance(error, REFUSALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Random pauses whose limit grows: full jitter.

    The n-th pause is anything between 0 and ``first * factor ** (n - 1)``, at most ``maximum``.
    Callers that failed together spread out; see `Exponential Backoff And Jitter`_.

    .. _Exponential Backoff And Jitter:
       https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Args:
        first: Limit of the first pause, in seconds.
        maximum: Limit of all pauses, in seconds.
        factor: By which each limit is higher than the one before.

    Raises:
        ValueError: If ``first`` is negative, ``maximum`` below it, or ``factor`` below 1.
    """

    first: float = 0.1
    maximum: float = 5.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        finite("first", self.first)
        finite("maximum", self.maximum, least=self.first)
        finite("factor", self.factor, least=1)

    def seconds(self, failed: int) -> float:
        """Return a pause after ``failed`` attempts, which count from 1."""
        try:
            limit = min(self.first * self.factor ** (failed - 1), self.maximum)
        except OverflowError:
            limit = self.maximum
        return random.random() * limit  # noqa: S311 - spreads callers, keeps no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When, and how often, to repeat what failed.

    Args:
        attempts: How often to try in all; 1 never repeats.
        on: Which errors to retry: exception types, or a function of the exception; by default
            `is_transient`. Cancellation is never retried.
        backoff: Pauses between attempts.
        max_wait: Longest ``retry_after`` (seconds, an attribute of the error) that is waited
            for. Who asks for more is not asked again: coming back earlier would be rude.
        budget: What all calls under this policy may spend together; ``None`` for no bound.

    Raises:
        ValueError: If a number is out of range, ``backoff`` no `Backoff`, or ``budget`` no
            `RetryBudget`.
        TypeError: If ``on`` is neither a type nor a plain function.
    """

    attempts: int = 3
    on: Kinds = is_transient
    backoff: Backoff = field(default_factory=Backoff)
    max_wait: float = 30.0
    budget: RetryBudget | None = field(default_factory=RetryBudget)

    def __post_init__(self) -> None:
        count("attempts", self.attempts)
        finite("max_wait", self.max_wait)
        instance("backoff", self.backoff, Backoff)
        if self.budget is not None:
            instance("budget", self.budget, RetryBudget)
        check_kinds("on", self.on)

    def wants(self, error: Exception) -> bool:
        """Tell whether ``on`` accepts the error."""
        return of_kind(error, self.on)


def retry(
    policy: Retry | None = None, /
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Repeat a coroutine function when it fails.

    ``@retry()`` decorates; ``await retry(policy)(function)(argument)`` does it once. An attempt
    that would begin after the current deadline (`common.context.deadline`) is not waited for:
    the last error is raised at once, with a note that says why no other attempt was made. Every
    repetition is an operation ``internal: retry`` with ``retry.attempt`` (from 2),
    ``retry.wait`` (seconds) and ``retry.reason`` (code or type of the error).

    Args:
        policy: When and how often; by default ``Retry()``, with a budget of its own.

    Returns:
        A decorator.

    Raises:
        TypeError: If used without parentheses, or on a function that is plain or an async
            generator, which cannot be repeated.

    Example:
        >>> import asyncio
        >>> @retry(Retry(attempts=5, on=OSError, backoff=Backoff(first=0.001)))
        ... async def connect(failures: list[int]) -> str:
        ...     if failures:
        ...         failures.pop()
        ...         raise ConnectionResetError
        ...     return "connected"
        >>> asyncio.run(connect([1, 2]))
        'connected'
    """
    if policy is not None and not isinstance(policy, Retry):
        raise TypeError("retry takes a policy: write @retry() or @retry(Retry(...))")
    chosen = policy or Retry()

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        awaited(function)
        name = getattr(function, "__qualname__", type(function).__qualname__)

        @wraps(function)
        async def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
            return await run(partial(function, *args, **kwargs), chosen, chosen.wants, name)

        return repeated

    return decorate


async def run(
    call: Callable[[], Awaitable[T]], policy: Retry, wanted: Callable[[Exception], bool], name: str
) -> T:
    """Call, and repeat as long as ``wanted`` and the policy allow."""
    attempt = 1
    wait = 0.0
    reason = ""
    failure: Exception | None = None
    while True:
        try:
            if attempt == 1:
                result = await call()
            else:
                facts = {"retry.attempt": attempt, "retry.wait": wait, "retry.reason": reason}
                with operation("internal", "retry", {**facts, "code.function.name": name}):
                    return await call()
        except Exception as error:
            if attempt == 1:
                _earn(policy, error)
            elif isinstance(error, REFUSALS) and error is not failure:
                error.__cause__ = failure  # or nobody would know what went wrong at first
            if not wanted(error):
                raise
            pause = _pause(error, policy, attempt)
            if isinstance(pause, str):
                if policy.attempts > 1:
                    _note(error, f"not retried after attempt {attempt}: {pause}")
                raise
            wait, reason, failure = pause, _reason(error), error
        else:
            _earn(policy)
            return result
        await asyncio.sleep(wait)
        attempt += 1


def _earn(policy: Retry, error: Exception | None = None) -> None:
    # What never reached the other side must not earn retries.
    if policy.budget is not None and not isinstance(error, REFUSALS):
        policy.budget.deposit()


def _pause(error: Exception, policy: Retry, attempt: int) -> float | str:
    """Seconds until the next attempt, or why there is none."""
    attempts = policy.attempts if _instant is None else _instant.attempts or policy.attempts
    if attempt >= attempts:
        return f"{attempts} attempts are all there are"
    left = remaining()
    if _instant is not None:
        return "no time is left" if left == 0 else 0.0
    wait = policy.backoff.seconds(attempt)
    asked = _asked(error)
    if asked is not None:
        if asked > policy.max_wait:
            return f"it asks to wait {asked:g} s, and max_wait is {policy.max_wait:g} s"
        wait += asked  # the jitter on top: all were told the same
    if left is not None and wait >= left:
        return f"the next attempt would be in {wait:.3g} s, the deadline is in {left:.3g} s"
    if policy.budget is not None and not policy.budget.withdraw():
        return "the retry budget is spent"
    return wait


def _asked(error: Exception) -> float | None:
    asked: object = getattr(error, "retry_after", None)
    if not isinstance(asked, int | float) or isinstance(asked, bool) or math.isnan(asked):
        return None
    return max(float(asked), 0.0)


def _reason(error: Exception) -> str:
    code = getattr(error, "code", None)
    return code if isinstance(code, str) and valid_id(code) else type(error).__name__


def _note(error: Exception, note: str) -> None:
    # The same exception object may be raised again and again.
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


@dataclass(frozen=True)
class _Instant:
    attempts: int | None


_instant: _Instant | None = None


@contextmanager
def instant_retries(*, attempts: int | None = None) -> Generator[None]:
    """Retry without waiting and without asking budgets, in the whole process: for tests.

    Args:
        attempts: Replaces the number of every policy, if given.

    Example:
        >>> with instant_retries(attempts=1):
        ...     pass  # nothing is repeated here
    """
    global _instant  # noqa: PLW0603 - a switch for the whole process
    if attempts is not None:
        count("attempts", attempts)
    before, _instant = _instant, _Instant(attempts)
    try:
        yield
    finally:
        _instant = before
