"""Middleware: each attempt is an operation, so metrics, spans and logs come from one place."""

from common.context import operation
from common.events.core._event_context import EventContext
from common.events.core._middleware import Middleware, Next
from common.events.core._outcome import Ack, Outcome, Reject, RetryLater


def observe_attempt(system: str) -> Middleware:
    """Report ``operation("messaging.process", <type>)``, an error when the handler fails.

    ``messaging.outcome`` is ``ack``, ``retry`` or ``reject``; other attributes are named as
    OpenTelemetry's semantic conventions for messaging have them.

    Args:
        system: Name of the transport.
    """

    async def observe(ctx: EventContext, call_next: Next) -> Outcome | None:
        op = operation("messaging.process", ctx.envelope.type)
        if not op.recording:
            return await call_next(ctx)
        with op:
            op.set(
                {
                    "messaging.system": system,
                    "messaging.destination.name": ctx.stream,
                    "messaging.consumer.group.name": ctx.consumer,
                    "messaging.message.id": ctx.message_id,
                    "messaging.message.attempt": ctx.attempt,
                }
            )
            outcome = await call_next(ctx)
            op.set({"messaging.outcome": _NAMES[type(outcome)]})
            if isinstance(outcome, (Reject, RetryLater)):
                # The exception, where there was one, is the last failure of the attempt.
                op.fail(_CODES[type(outcome)], error=ctx.error)
            return outcome

    return observe


_NAMES: dict[type, str] = {type(None): "ack", Ack: "ack", RetryLater: "retry", Reject: "reject"}
_CODES: dict[type, str] = {RetryLater: "RETRY_LATER", Reject: "REJECTED"}
