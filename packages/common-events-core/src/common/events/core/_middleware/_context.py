"""Middleware: the context of who sent the message."""

from common.context import Context, Trace, bind, new_id, new_trace, valid_id
from common.events.core._envelope import Envelope
from common.events.core._event_context import EventContext, in_hand
from common.events.core._middleware import Middleware, Next
from common.events.core._outcome import Outcome


def restore_context(service: str) -> Middleware:
    """Bind what the envelope says, for the handler and all it calls or publishes.

    The request id is the message's id where that is one (an idempotency key is none); the
    correlation id, tenant and trace are those of the sender, whose span is the parent. A message
    without a trace starts one.

    Args:
        service: This service's name.
    """

    async def restore(ctx: EventContext, call_next: Next) -> Outcome | None:
        envelope = ctx.envelope
        request_id = envelope.id if valid_id(envelope.id) else new_id()
        context = Context(
            request_id=request_id,
            correlation_id=envelope.correlation_id or request_id,
            trace=_trace(envelope) or new_trace(),
            tenant=envelope.tenant,
            service=service,
        )
        token = in_hand.set(ctx)
        try:
            with bind(context):
                return await call_next(ctx)
        finally:
            in_hand.reset(token)

    return restore


def _trace(envelope: Envelope) -> Trace | None:
    text = envelope.traceparent
    if text is None or envelope.tracestate or not text.startswith("00-"):
        return envelope.trace
    try:
        # The decoder has checked the form, which parse_trace would do again at twice the cost.
        return Trace(text[3:35], text[36:52], int(text[53:], 16))
    except ValueError:  # an id of zeros
        return None
