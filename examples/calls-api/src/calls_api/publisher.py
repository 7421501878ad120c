"""From a call that ended to its event: at once if possible, and for certain."""

import asyncio
import json
import logging
import random
from collections.abc import Iterable
from datetime import timedelta

from calls_api.store import CallStore
from calls_api.tables import Call
from common.domain import Keyed, idempotency_key
from common.domain.calls import CallCompleted
from common.errors import DatabaseError
from common.events.core import EventBus, Failed, Published

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0  # of a request: when the broker is away, its caller waits no longer


class CallPublisher:
    """Publishes `call.completed`, at once and again until the broker has stored it.

    Args:
        bus: A connected bus; the caller closes it.
        store: where a published call is marked.
    """

    def __init__(self, bus: EventBus, store: CallStore) -> None:
        self._bus = bus
        self._store = store

    async def try_completed(self, call: Call) -> None:
        """Publish now if possible; otherwise `sweep` does it later."""
        result = await self._bus.publish(completed(call), timeout=PATIENCE_SECONDS, on_error="soft")
        try:
            await self._mark([(call, result)])
        except DatabaseError as error:
            _postponed(error)

    async def sweep(self, *, every: float = 1.0) -> None:
        """Publish what was committed but not published, for ever.

        Args:
            every: seconds between two looks, jittered by a fifth.
        """
        while True:
            await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                calls = await self._store.unpublished(
                    older_than=timedelta(seconds=every), limit=500
                )
                report = await self._bus.publish_many(completed(call) for call in calls)
                await self._mark(zip(calls, report.results, strict=True))
            except Exception as error:  # noqa: BLE001 - a broken server must not end the loop
                _postponed(error)

    async def _mark(self, results: Iterable[tuple[Call, Published | Failed]]) -> None:
        for call, result in results:
            if isinstance(result, Failed):
                _postponed(result.error)
            else:
                await self._store.mark_published(call.call_id)


def completed(call: Call) -> Keyed[CallCompleted]:
    """The event of a call that ended, under the one id by which repetitions are known."""
    event = CallCompleted(
        call_id=str(call.call_id),
        phone_number=call.phone_number,
        duration_seconds=call.duration_seconds or 0,
        status=call.status,
        failure_reason=call.failure_reason,
    )
    return Keyed(event, idempotency_key("calls-api", event.__message__.type, event.call_id))


def _postponed(error: Exception) -> None:
    logger.warning(json.dumps({"event": "publish postponed", "error": type(error).__name__}))
