"""What surrounds a handler: one concept per module, chained once per subscription."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from common.events.core._event_context import EventContext
from common.events.core._outcome import Outcome

Next: TypeAlias = Callable[[EventContext], Awaitable[Outcome | None]]
"""The rest of the chain."""

Middleware: TypeAlias = Callable[[EventContext, Next], Awaitable[Outcome | None]]
"""``async def middleware(ctx, call_next): …; return await call_next(ctx)``"""


def chained(middleware: Sequence[Middleware], handle: Next) -> Next:
    """Return one function that runs the middleware, the first one outermost, and the handler."""
    for each in reversed(middleware):
        handle = _link(each, handle)
    return handle


def _link(middleware: Middleware, call_next: Next) -> Next:
    return lambda ctx: middleware(ctx, call_next)
