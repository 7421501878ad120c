"""Consumes `call.completed` from JetStream and writes transcript records."""

import asyncio
import json
import logging
from contextlib import suppress
from uuid import UUID

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.client import JetStreamContext

from common.context import bind, extract, new_id
from common.domain import MessageError, registry, streams
from common.domain.calls import CallCompleted

logger = logging.getLogger(__name__)

BATCH = 50
ACK_WAIT_SECONDS = 5.0

EVENT = CallCompleted.__message__
DEAD_LETTERS = StreamConfig(name="DEAD_LETTERS", subjects=["dead.>"])

# One statement, so the inbox's mark and the effect commit together: a redelivered event
# finds its mark and has no effect.
WRITE = """
with unseen as (
    insert into inbox (message_id) values ($1) on conflict do nothing returning message_id
)
insert into transcripts (session_id, call_id, processing_status) select $2, $3, $4 from unseen
"""


class Worker:
    """Handles each event at least once, and its effect once.

    Args:
        nats: a connected client; the caller closes it.
        pool: an open asyncpg pool; the caller closes it.
    """

    def __init__(self, nats: Client, pool: asyncpg.Pool) -> None:
        self._jetstream = nats.jetstream(timeout=5)
        self._pool = pool

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
                while not stopping.is_set():
                    await self._consume(subscription)
                    pause = 0.1
            except (NatsError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
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
            except (MessageError, ValueError) as error:
                await self._bury(message, reason=" ".join(str(error).split())[:500])
                return
            message_id = (message.headers or {}).get("Nats-Msg-Id", str(call_id))
            await self._pool.execute(WRITE, message_id, new_id(), call_id, "completed")
            await message.ack()

    async def _bury(self, message: Msg, *, reason: str) -> None:
        """Store a message that will never be readable as a dead letter, and only then let it go."""
        headers = {**(message.headers or {}), "Dead-Letter-Reason": reason}
        headers.pop("Nats-Msg-Id", None)
        await self._jetstream.publish(f"dead.{message.subject}", message.data, headers=headers)
        logger.error(json.dumps({"event": "dead letter", "reason": reason}))
        await message.term()
