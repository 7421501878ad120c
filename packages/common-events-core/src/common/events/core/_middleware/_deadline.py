"""Middleware: an attempt gets so much time and no more."""

from common.context import deadline
from common.events.core._event_context import EventContext
from common.events.core._middleware import Middleware, Next
from common.events.core._outcome import Outcome


def limit_time(seconds: float) -> Middleware:
    """Cancel an attempt after so many seconds; `common.context.DeadlineExceeded` is its failure.

    Everything the handler calls sees the deadline (`common.context.remaining`).

    Args:
        seconds: For one attempt.
    """

    async def limit(ctx: EventContext, call_next: Next) -> Outcome | None:
        async with deadline(seconds):
            return await call_next(ctx)

    return limit
