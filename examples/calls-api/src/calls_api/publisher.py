"""Events about calls, published to NATS JetStream."""

import asyncio
import json
import logging
import random
from datetime import timedelta

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig

from calls_api.store import CallStore
from calls_api.tables import Call
from common.context import inject
from common.domain import streams
from common.domain.calls import CallCompleted
from common.errors import DatabaseError

logger = logging.getLogger(__name__)

STREAM = streams.stream_for(CallCompleted)


class CallPublisher:
    """Publishes `call.completed`, at once and again until the broker has stored it.

    Args:
        nats: a connected client; the caller closes it.
        store: where a published call is marked.
    """

    def __init__(self, nats: Client, store: CallStore) -> None:
        self._jetstream = nats.jetstream(timeout=5)
        self._store = store

    async def declare(self) -> None:
        """Create the stream; no change when it exists as declared."""
        await self._jetstream.add_stream(
            StreamConfig(name=STREAM.name, subjects=list(STREAM.subjects))
        )

    async def completed(self, call: Call) -> None:
        """Publish `call.completed` and wait until it is stored.

        The call's id is the message id, so publishing again within the stream's
        duplicate window is harmless.
        """
        headers: dict[str, str] = {"Nats-Msg-Id": str(call.call_id)}
        inject(headers)
        event = CallCompleted(
            call_id=str(call.call_id),
            phone_number=call.phone_number,
            duration_seconds=call.duration_seconds or 0,
            status=call.status,
            failure_reason=call.failure_reason,
        )
        await self._jetstream.publish(
            event.__message__.subject, event.model_dump_json().encode(), headers=headers
        )
        await self._store.mark_published(call.call_id)

    async def try_completed(self, call: Call) -> None:
        """Publish now if possible; otherwise `sweep` does it later."""
        try:
            await self.completed(call)
        except (NatsError, DatabaseError, OSError) as error:
            logger.warning(
                json.dumps({"event": "publish postponed", "error": type(error).__name__})
            )

    async def sweep(self, *, every: float = 1.0) -> None:
        """Publish what was committed but not published, for ever.

        Args:
            every: seconds between two looks, jittered by a fifth.
        """
        while True:
            await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                for call in await self._store.unpublished(
                    older_than=timedelta(seconds=every), limit=500
                ):
                    await self.completed(call)
            except Exception as error:  # noqa: BLE001 - a broken server must not end the loop
                logger.warning(json.dumps({"event": "sweep failed", "error": type(error).__name__}))
