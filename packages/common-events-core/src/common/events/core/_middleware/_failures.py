"""Middleware: an exception of the handler becomes an outcome, by its class."""

from collections.abc import Sequence

from common.events.core._event_context import EventContext
from common.events.core._handler import OnError
from common.events.core._middleware import Middleware, Next
from common.events.core._outcome import MAX_DELAY, Ack, Outcome, Reject, RetryLater


def decide_failures(
    give_up_on: Sequence[type[Exception]], on_error: OnError | None = None
) -> Middleware:
    """Turn exceptions into `Reject` (``give_up_on``) or `RetryLater`; cancellation goes through.

    An exception with ``retry_after`` seconds (`common.errors.RateLimitedError`, among others) is
    not retried before that.

    Args:
        give_up_on: Classes for which no further attempt is made.
        on_error: Asked first.
    """
    final = tuple(give_up_on)

    async def decide(ctx: EventContext, call_next: Next) -> Outcome | None:
        try:
            outcome = await call_next(ctx)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            ctx.error = error
        else:
            if type(outcome) in _OUTCOMES:
                return outcome
            ctx.error = _wrong("the handler", outcome)
        if on_error is not None:
            chosen = await _asked(on_error, ctx.error, ctx)
            if chosen is not None:
                return chosen
        if _is_final(ctx.error, final):
            return Reject(describe(ctx.error))
        return RetryLater(_retry_after(ctx.error), describe(ctx.error))

    return decide


_OUTCOMES = {type(None), Ack, RetryLater, Reject}


async def _asked(on_error: OnError, error: Exception, ctx: EventContext) -> Outcome | None:
    try:
        chosen = await on_error(error, ctx)
    except Exception as another:  # noqa: BLE001 - whatever it raises
        if another is not error:
            another.__context__ = error
            ctx.error = another
        return None
    if type(chosen) in _OUTCOMES:
        return chosen
    ctx.error = _wrong("on_error", chosen)
    return None


def _wrong(who: str, outcome: object) -> TypeError:
    return TypeError(
        f"{who} returned {type(outcome).__qualname__}: let it return nothing, Ack, RetryLater or "
        "Reject"
    )


def _is_final(error: Exception, final: tuple[type[Exception], ...]) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.split(final)[1] is None  # all of its members are
    return isinstance(error, final)


def describe(error: BaseException) -> str:
    """Return class and message of an error on one line of at most 500 characters."""
    text = str(error)
    line = " ".join(text[:1000].split())
    return f"{type(error).__qualname__}: {line}"[:500] if line else type(error).__qualname__


def _retry_after(error: BaseException) -> float | None:
    seconds = getattr(error, "retry_after", None)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
        return None
    return min(float(seconds), MAX_DELAY)
