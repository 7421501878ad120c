"""Handles `call.completed`: writes a transcript record."""

from typing import Final
from uuid import UUID

from common.db.core import UnitOfWork
from common.db.postgres import PostgresDatabase
from common.domain.calls import CallCompleted
from common.events.core import EventBus, EventContext, Exponential, Reject, Retry
from common.events.nats import NatsTransport
from post_processing.inbox import DatabaseInbox
from post_processing.settings import Settings, from_environment
from post_processing.tables import Transcript

CONCURRENCY: Final = 10
"""As many as the database has connections for."""

RETRY: Final = Retry(attempts=10, backoff=Exponential(1, 60))
"""About two minutes on average: a database that fails over is not worth a dead letter."""

ACK_WAIT_SECONDS: Final = 5.0
"""After a worker was killed, another takes its messages so soon."""


async def transcribe(event: CallCompleted, ctx: EventContext) -> Reject | None:
    """Write the record, in the transaction of the inbox's mark."""
    try:
        call_id = UUID(event.call_id)
    except ValueError:
        return Reject("call_id is no UUID")
    await (
        ctx.transaction(UnitOfWork)
        .repository(Transcript)
        .add(Transcript(call_id=call_id, processing_status="completed"))
    )
    return None


def make_bus(settings: Settings, database: PostgresDatabase) -> EventBus:
    """A bus that is not started yet.

    Args:
        settings: Where the broker is.
        database: Open before the bus is started; the caller closes it.
    """
    bus = EventBus(NatsTransport(settings.nats), source="/post-processing")
    bus.subscribe(
        CallCompleted,
        durable="post-processing",
        concurrency=CONCURRENCY,
        retry=RETRY,
        ack_wait=ACK_WAIT_SECONDS,
        inbox=DatabaseInbox(database),
    )(transcribe)
    return bus


def event_bus() -> EventBus:
    """The bus, for the `common-events` command."""
    settings = from_environment()
    return make_bus(settings, PostgresDatabase(settings.database))
