"""Middleware: a message that was handled already is not handled again."""

from typing import Any

from common.events.core._event_context import EventContext
from common.events.core._inbox import Inbox
from common.events.core._middleware import Middleware, Next
from common.events.core._outcome import Ack, Outcome


def once(inbox: Inbox[Any]) -> Middleware:
    """Run the rest in a transaction of the inbox, unless the message is marked there.

    Args:
        inbox: Where handled messages are marked.
    """

    async def handle_once(ctx: EventContext, call_next: Next) -> Outcome | None:
        try:
            async with inbox.transaction(ctx.consumer, ctx.message_id) as entry:
                if entry.duplicate:
                    return Ack()
                ctx.bind_transaction(entry.transaction)
                outcome = await call_next(ctx)
                if outcome is not None and not isinstance(outcome, Ack):
                    raise _NotHandled(outcome)  # leaves the transaction, which rolls back
                return outcome
        except _NotHandled as not_handled:
            return not_handled.outcome
        finally:
            ctx.bind_transaction(None)

    return handle_once


class _NotHandled(Exception):  # noqa: N818 - no error: an outcome on its way
    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the handler did not handle the message")
        self.outcome = outcome
