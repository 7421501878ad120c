"""A worker in a process of its own: prints what it does, and is sent signals by the tests."""

import asyncio
import logging
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.events.core import _consuming

if TYPE_CHECKING:
    from bus_support import InMemoryTransport, Lit, make_bus
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("bus_support.py")))["shared"])


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(how: str, drain: float) -> None:
    if "patient" in how:
        _consuming.GRACE = 600.0
    transport = InMemoryTransport()
    bus = make_bus(transport)

    @bus.subscribe(Lit, durable="d", concurrency=2, max_outstanding=6, per_key="per-key" in how)
    async def handle(event: Lit):
        say("started", event.number)
        try:
            if "ignores" in how:
                while "stopped" not in seen:
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        say("ignored", event.number)
            elif "stuck" in how:
                await asyncio.Event().wait()
            else:
                while "signal" not in seen:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            say("cancelled", event.number)
            raise
        say("finished", event.number)

    seen: set[str] = set()

    async def publish():
        while not transport._consumers:
            await asyncio.sleep(0.01)
        for number in range(10):
            await bus.publish(Lit(lamp="same" if "same" in how else str(number), number=number))
        say("published")
        await bus._life._ended.wait()
        seen.add("signal")

    publishing = asyncio.create_task(publish())
    try:
        await bus.run(drain=drain)
    finally:
        publishing.cancel()
        (durable,) = transport.broker.durables()
        now = transport.broker.now()
        say("late", sum(item.due > now for item in durable.unsettled.values()))
        say("left", len(durable.unsettled) + durable.stream.last - durable.cursor + 1)
        say("tasks", len(asyncio.all_tasks()) - 2)
    say("stopped")
    seen.add("stopped")


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
