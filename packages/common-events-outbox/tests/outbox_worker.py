"""A consumer whose effects are in PostgreSQL, to be killed, paused and stopped."""

import asyncio
import json
import sys

from outbox_ledger import DURABLE, Booked, begin, make_bus, opened, say

from common.db.core import UnitOfWork
from common.events.core import EventContext, Exponential, Retry
from common.events.core.testing import History
from common.events.outbox import SqlInbox
from common.events.outbox._sql import fetch

EFFECT = "INSERT INTO effect (id, account, number) VALUES ($1, $2, $3)"


async def main(*, postgres: str, nats: str, folder: str) -> None:
    history = History(journal=f"{folder}/journal")
    bus = make_bus(nats)
    async with opened(postgres) as database:

        @bus.subscribe(
            Booked,
            durable=DURABLE,
            inbox=SqlInbox(database),
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
