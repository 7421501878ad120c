"""Keeps messages in hand from being delivered again while they are."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from common.events.core._in_hand import InHand

logger = logging.getLogger("common.events")


async def extend(
    held: Callable[[], Collection[InHand]], *, consumer: str, ack_wait: float, limit: float
) -> None:
    """Extend what is held, in thirds of ``ack_wait``, for ever.

    A message that waits for its turn or its next attempt is extended for as long as that takes.
    A handler that runs for longer than ``limit`` is cancelled; if it has not ended one round
    later, its message is let go, and the broker delivers it again after ``ack_wait``.

    Args:
        held: Returns the messages in hand.
        consumer: Durable name, for logs.
        ack_wait: Seconds the broker waits.
        limit: Seconds one attempt may take.
    """
    pause = min(ack_wait / 3, limit)
    while True:
        await asyncio.sleep(pause)
        now = time.monotonic()
        for item in list(held()):
            if item.let_go:
                continue
            if item.worker is not None and now - item.started >= limit:
                if item.overdue:
                    item.let_go = True
                    logger.error(
                        "%s: a handler was cancelled after %.1f s and goes on: its message is let "
                        "go and will be delivered again; let it end when it is cancelled",
                        consumer,
                        now - item.started,
                    )
                    continue
                item.overdue = True
                item.worker.cancel()
            if now - item.delivery.received >= pause / 2:
                try:
                    await item.delivery.in_progress()
                except Exception:
                    logger.exception("%s: a message could not be extended", consumer)
