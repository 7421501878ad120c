"""Handles `call.completed`: writes a transcript record, and tells of it."""

import logging
from typing import Annotated, Final
from uuid import UUID

from common.db.core import UnitOfWork
from common.db.postgres import PostgresDatabase
from common.domain.calls import CallCompleted
from common.domain.transcripts import TranscriptProcessed
from common.events.core import EventBus, EventContext, Exponential, Inject, Reject, Retry
from common.events.outbox import Outbox, SqlInbox
from post_processing import reporting
from post_processing.events import make_bus, make_outbox
from post_processing.settings import Settings, from_environment
from post_processing.tables import Transcript

logger = logging.getLogger(__name__)

CONCURRENCY: Final = 10
"""As many as the database has connections for."""

RETRY: Final = Retry(attempts=10, backoff=Exponential(1, 60))
"""About two minutes on average: a database that fails over is not worth a dead letter."""

ACK_WAIT_SECONDS: Final = 5.0
"""After a worker was killed, another takes its messages so soon."""


async def transcribe(
    event: CallCompleted, ctx: EventContext, outbox: Annotated[Outbox, Inject]
) -> Reject | None:
    """Write the record and what is to be told, in the transaction of the inbox's mark."""
    try:
        call_id = UUID(event.call_id)
    except ValueError:
        return Reject("call_id is no UUID")
    tx = ctx.transaction(UnitOfWork)
    transcript = await tx.repository(Transcript).add(
        Transcript(call_id=call_id, processing_status="completed")
    )
    await outbox.add(
        tx,
        TranscriptProcessed(
            call_id=str(call_id),
            session_id=str(transcript.session_id),
            processing_status=transcript.processing_status,
            transcript_available=True,
        ),
    )
    logger.info("call %s gets transcript record %s", call_id, transcript.session_id)
    return None


def make_worker(settings: Settings, database: PostgresDatabase) -> EventBus:
    """A bus that is not started yet.

    Args:
        settings: Where broker and calls-api are.
        database: Open before the bus is started; the caller closes it.
    """
    bus = make_bus(settings)
    bus.provide(make_outbox())
    bus.subscribe(
        CallCompleted,
        durable="post-processing",
        concurrency=CONCURRENCY,
        retry=RETRY,
        ack_wait=ACK_WAIT_SECONDS,
        inbox=SqlInbox(database),
    )(transcribe)
    bus.provide(reporting.make_client(settings))
    bus.subscribe(
        TranscriptProcessed,
        durable="post-processing-reports",
        concurrency=reporting.CONCURRENCY,
        retry=reporting.RETRY,
        give_up_on=reporting.GIVE_UP_ON,
        timeout=reporting.ATTEMPT_SECONDS,
        ack_wait=ACK_WAIT_SECONDS,
    )(reporting.report)
    return bus


def event_bus() -> EventBus:
    """The bus, for the `common-events` command."""
    settings = from_environment()
    return make_worker(settings, PostgresDatabase(settings.database))
