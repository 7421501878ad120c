"""Consumes `call.completed` from JetStream and writes transcript records."""

import asyncio
import json
import logging
from contextlib import suppress
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.client import JetStreamContext

from common.context import bind, extract
from common.db.core import UniqueViolationError, UnitOfWork
from common.db.postgres import PostgresDatabase
from common.domain import MessageError, registry, streams
from common.domain.calls import CallCompleted
from common.errors import DatabaseError, ValidationError
from post_processing.tables import InboxMark, Transcript

logger = logging.getLogger(__name__)

BATCH = 50
ACK_WAIT_SECONDS = 5.0

EVENT = CallCompleted.__message__
DEAD_LETTERS = StreamConfig(name="DEAD_LETTERS", subjects=["dead.>"])


class Worker:
    """Handles each event at least once, and its effect once.

    Args:
        nats: a connected client; the caller closes it.
        database: an open database; the caller closes it.
    """

    def __init__(self, nats: Client, database: PostgresDatabase) -> None:
        self._jetstream = nats.jetstream(timeout=5)
        self._database = database

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until `stopping` is set; what was fetched by then is finished first.

        Servers that are away are waited for, with growing pauses.
        """
        pause = 0.1
        while not stopping.is_set():
            try:
                await self._jetstream.add_stream(DEAD_LETTERS)
                subscription = await self._jetstream.pull_subscribe(
                    EVENT.subject,
                    durable="post-processing",
                    stream=streams.stream_for(CallCompleted).name,
                    config=ConsumerConfig(
                        ack_policy=AckPolicy.EXPLICIT,
                        ack_wait=ACK_WAIT_SECONDS,
                        max_ack_pending=10 * BATCH,
                    ),
                )
                logger.info(json.dumps({"event": "consuming"}))
                while not stopping.is_set():
                    await self._consume(subscription)
                    pause = 0.1
            except (NatsError, DatabaseError, OSError) as error:
                logger.warning(json.dumps({"event": "waiting", "error": type(error).__name__}))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause)
                pause = min(pause * 2, 5.0)

    async def _consume(self, subscription: JetStreamContext.PullSubscription) -> None:
        try:
            messages = await subscription.fetch(BATCH, timeout=0.5)
        except TimeoutError:
            return
        results = await asyncio.gather(
            *(self._handle(message) for message in messages), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result  # what was not acknowledged is delivered again after ack_wait

    async def _handle(self, message: Msg) -> None:
        with bind(extract(message.headers or {})):
            try:
                event = registry.decode(EVENT.type, message.data)
                call_id = UUID(EVENT.key_of(event))
                message_id = (message.headers or {}).get("Nats-Msg-Id", str(call_id))
                await self._record(message_id, call_id)
            except (MessageError, ValidationError, ValueError) as error:
                await self._bury(message, reason=" ".join(str(error).split())[:500])
                return
            await message.ack()

    async def _record(self, message_id: str, call_id: UUID) -> None:
        """Write the transcript record, unless the message was handled before."""

        async def mark_and_write(unit: UnitOfWork) -> None:
            # The inbox's mark and the effect commit together, and only the first mark is taken.
            await unit.repository(InboxMark).add(InboxMark(message_id=message_id))
            await unit.repository(Transcript).add(
                Transcript(call_id=call_id, processing_status="completed")
            )

        try:
            await self._database.run(mark_and_write, idempotent=True)
        except UniqueViolationError as error:
            if error.constraint != "pk_inbox":
                raise

    async def _bury(self, message: Msg, *, reason: str) -> None:
        """Store a message that will never be readable as a dead letter, and only then let it go."""
        headers = {**(message.headers or {}), "Dead-Letter-Reason": reason}
        headers.pop("Nats-Msg-Id", None)
        await self._jetstream.publish(f"dead.{message.subject}", message.data, headers=headers)
        logger.error(json.dumps({"event": "dead letter", "reason": reason}))
        await message.term()
