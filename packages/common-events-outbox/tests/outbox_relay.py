"""A relay in a process of its own, to be killed, paused and stopped."""

import asyncio
import json
import sys

from outbox_ledger import begin, make_transport, opened, say

from common.events.outbox import Relay, RelayConfig


async def main(*, postgres: str, nats: str, **options) -> None:
    async with opened(postgres) as database, make_transport(nats) as transport:
        await Relay(database, transport, RelayConfig(**options)).run()
    say("stopped")


if __name__ == "__main__":
    begin()
    asyncio.run(main(**json.loads(sys.argv[1])))
