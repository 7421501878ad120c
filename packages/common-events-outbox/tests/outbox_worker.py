"""A consumer whose effects are in PostgreSQL, to be killed, paused and stopped."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager

from outbox_ledger import DURABLE, Booked, begin, make_bus, opened, say

from common.db.core import UnitOfWork
from common.events.core import EventContext, Exponential, Retry
from common.events.core.testing import History
from common.events.outbox import SqlInbox
from common.events.outbox._sql import fetch

DOOM_SECONDS = 2.0
EFFECT = "INSERT INTO effect (id, account, number) VALUES ($1, $2, $3)"


class DoomedInbox(SqlInbox):
    """After SIGUSR1 the process ends when the next effect has committed: before its ack."""

    until = 0.0

    def doom(self) -> None:
        self.until = time.monotonic() + DOOM_SECONDS

    @asynccontextmanager
    async def transaction(self, consumer, message_id):
        async with super().transaction(consumer, message_id) as opened:
            yield opened
        if time.monotonic() < self.until:
            os._exit(9)


async def main(*, postgres: str, nats: str, folder: str) -> None:
    history = History(journal=f"{folder}/journal")
    bus = make_bus(nats)
    async with opened(postgres) as database:
        inbox = DoomedInbox(database)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, inbox.doom)

        @bus.subscribe(
            Booked,
            durable=DURABLE,
            inbox=inbox,
            per_key=True,
            concurrency=8,
            max_outstanding=64,
            ack_wait=3.0,
            # Only faults fail here, and they pass: nothing may be given up.
            retry=Retry(attempts=1_000, backoff=Exponential(0.1, 1)),
        )
        async def book(event: Booked, ctx: EventContext) -> None:
            tx = ctx.transaction(UnitOfWork)
            await fetch(tx, "insert", "effect", EFFECT, ctx.message_id, event.account, event.number)
            history.handled(ctx.message_id, consumer=DURABLE, key=event.account)

        await bus.run(drain=20)
    say("stopped")


if __name__ == "__main__":
    begin()
    asyncio.run(main(**json.loads(sys.argv[1])))
