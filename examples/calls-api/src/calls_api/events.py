"""The bus this service publishes through."""

from calls_api.settings import Settings, from_environment
from common.domain import streams
from common.events.core import EventBus
from common.events.nats import NatsTransport


def make_bus(settings: Settings) -> EventBus:
    """A bus that is not connected yet; this service owns what is said about calls."""
    return EventBus(
        NatsTransport(settings.nats),
        source="/calls",
        service="calls-api",
        streams=streams.extended(services={"calls-api": ["CALL"]}),
    )


def event_bus() -> EventBus:
    """The bus, for the `common-events` command."""
    return make_bus(from_environment())
