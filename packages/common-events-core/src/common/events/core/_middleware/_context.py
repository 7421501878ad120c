"""Middleware: the context of who sent the message."""

from threading import Lock

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
        # Neither is undone: an attempt runs in a context variables' copy of its own (`isolated`).
        in_hand.set(ctx)
        bind(_SendersContext(ctx.envelope, service)).__enter__()
        return await call_next(ctx)

    return restore


class _SendersContext(Context):
    """The context an envelope stands for, made out when somebody reads it: many handlers do not.

    All but its class is as if it had been made at once.
    """

    __slots__ = ("_envelope", "_service")

    _envelope: Envelope
    _service: str

    def __init__(self, envelope: Envelope, service: str) -> None:
        _set_envelope(self, envelope)
        _set_service(self, service)

    def __getattr__(self, name: str) -> object:
        # Only called for what is not set, such as all fields of a context at first.
        if name not in Context.__slots__:
            raise AttributeError(f"the context has no field {name!r}")
        with _making:
            try:
                return object.__getattribute__(self, name)
            except AttributeError:
                self._make()
            return object.__getattribute__(self, name)

    def _make(self) -> None:
        envelope = self._envelope
        request_id = envelope.id if valid_id(envelope.id) else new_id()
        Context.__init__(
            self,
            request_id=request_id,
            correlation_id=envelope.correlation_id or request_id,
            trace=_trace(envelope) or new_trace(),
            tenant=envelope.tenant,
            service=self._service,
        )

    def __eq__(self, other: object) -> bool:
        return self.replace() == (other.replace() if isinstance(other, _SendersContext) else other)

    def __hash__(self) -> int:
        return hash(self.replace())


_making = Lock()  # a handler's threads share one context
# Contexts are immutable, except for whoever makes them.
_set_envelope = _SendersContext.__dict__["_envelope"].__set__
_set_service = _SendersContext.__dict__["_service"].__set__


def _trace(envelope: Envelope) -> Trace | None:
    text = envelope.traceparent
    if text is None or envelope.tracestate or not text.startswith("00-"):
        return envelope.trace
    try:
        # The decoder has checked the form, which parse_trace would do again at twice the cost.
        return Trace(text[3:35], text[36:52], int(text[53:], 16))
    except ValueError:  # an id of zeros
        return None
