"""What this service tells others: which events there are, and how they leave."""

from typing import Final

from calls_api.settings import Settings, from_environment
from calls_api.tables import Call
from common.domain import Keyed, Streams, idempotency_key, streams
from common.domain.calls import CallCompleted
from common.events.core import EventBus
from common.events.nats import NatsTransport
from common.events.outbox import Outbox

SOURCE: Final = "/calls"
SERVICE: Final = "calls-api"
STREAMS: Final[Streams] = streams.extended(services={SERVICE: ["CALL"]})
"""This service owns what is said about calls."""


def completed(call: Call) -> Keyed[CallCompleted]:
    """The event of a call that ended, under the one id by which repetitions are known."""
    event = CallCompleted(
        call_id=str(call.call_id),
        phone_number=call.phone_number,
        duration_seconds=call.duration_seconds or 0,
        status=call.status,
        failure_reason=call.failure_reason,
    )
    return Keyed(event, idempotency_key(SERVICE, event.__message__.type, event.call_id))


def make_outbox() -> Outbox:
    """The outbox, through which every event of this service leaves."""
    return Outbox(source=SOURCE, service=SERVICE, streams=STREAMS)


def make_bus(settings: Settings) -> EventBus:
    """The bus of the relay, not connected yet; connecting declares this service's streams."""
    return EventBus(NatsTransport(settings.nats), source=SOURCE, service=SERVICE, streams=STREAMS)


def event_bus() -> EventBus:
    """The bus, for the `common-events` command."""
    return make_bus(from_environment())
