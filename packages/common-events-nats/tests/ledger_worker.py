"""A worker in a process of its own, to be killed, paused, cut off and stopped."""

import asyncio
import json
import logging
import os
import random
import sys
from datetime import timedelta

from nats_ledger import DURABLE, Booked, Booking, SqliteInbox, make_bus

from common.events.core import Constant, EventContext, Reject, Retry
from common.events.core.testing import History


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def some_time() -> float:
    """Return seconds; now and then enough to be killed, paused or stopped in the midst of it."""
    return random.expovariate(1 / (0.3 if random.random() < 0.02 else 0.001))


async def main(
    *,
    servers: list[str],
    folder: str,
    per_key: bool = False,
    attempts: int = 40,
    ack_wait: float = 3.0,
    concurrency: int = 8,
    max_outstanding: int = 32,
    drain: float = 20.0,
    replicas: int = 1,
    mended: bool = False,
    announce: bool = False,
) -> None:
    history = History(journal=f"{folder}/journal")
    bus = make_bus(servers, replicas=replicas, name=f"worker {os.getpid()}")

    @bus.subscribe(
        Booked,
        durable=DURABLE,
        inbox=SqliteInbox(f"{folder}/effects.db"),
        per_key=per_key,
        concurrency=concurrency,
        max_outstanding=max_outstanding,
        ack_wait=ack_wait,
        extend_up_to=timedelta(minutes=5),
        retry=Retry(attempts=attempts, backoff=Constant(0.1)),
    )
    async def book(event: Booked, ctx: EventContext) -> Reject | None:
        if announce:
            say("started", event.number)
        if not mended:
            match event.mood:
                case "poison":
                    os._exit(9)
                case "broken":
                    raise RuntimeError("it never works")
                case "refused":
                    return Reject("not this one")
                case "shaky" if ctx.attempt == 1:
                    raise RuntimeError("the first attempt fails")
                case "slow":
                    await asyncio.sleep(0.5)
                case "stuck":
                    await asyncio.Event().wait()
                case _:
                    pass
        await asyncio.sleep(some_time())
        ctx.transaction(Booking).add(event.account)
        history.handled(ctx.message_id, consumer=DURABLE, key=event.account)
        await asyncio.sleep(some_time())
        if announce:
            say("finished", event.number)
        return None

    async def tell() -> None:
        while not bus._life.started:
            await asyncio.sleep(0.01)
        say("ready")

    telling = asyncio.create_task(tell())
    await bus.run(drain=drain)
    telling.cancel()
    say("stopped")


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO)
    asyncio.run(main(**json.loads(sys.argv[1])))
