"""Middleware: failed attempts are logged, in the context of their message."""

import logging

from common.events.core._event_context import EventContext
from common.events.core._middleware import Next
from common.events.core._outcome import Outcome, Reject, RetryLater

logger = logging.getLogger("common.events")


async def log_failures(ctx: EventContext, call_next: Next) -> Outcome | None:
    """Log what becomes of a message that was not handled; successes are operations only."""
    outcome = await call_next(ctx)
    if isinstance(outcome, (Reject, RetryLater)):
        logger.warning(
            "%s: attempt %d of %s failed: %s",
            ctx.consumer,
            ctx.attempt,
            ctx.envelope.type,
            outcome.reason or "the handler asked for another attempt",
            exc_info=ctx.error,
            extra={"message_id": ctx.message_id},
        )
    return outcome
