"""What this worker tells others, and how that leaves."""

from typing import Final

from common.domain import Streams, streams
from common.events.core import EventBus
from common.events.nats import NatsTransport
from common.events.outbox import Outbox
from post_processing.settings import Settings

SOURCE: Final = "/post-processing"
SERVICE: Final = "post-processing"
STREAMS: Final[Streams] = streams.extended(services={SERVICE: ["TRANSCRIPT"]})
"""This worker owns what is said about transcripts."""


def make_outbox() -> Outbox:
    """The outbox, through which every event of this worker leaves."""
    return Outbox(source=SOURCE, service=SERVICE, streams=STREAMS)


def make_bus(settings: Settings) -> EventBus:
    """A bus that is not connected yet; connecting declares this worker's streams."""
    return EventBus(NatsTransport(settings.nats), source=SOURCE, service=SERVICE, streams=STREAMS)
