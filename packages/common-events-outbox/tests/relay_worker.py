"""A relay in a process of its own, for tests that stop and kill it.

Takes the URLs of database and broker, seconds of the lease, and one of:
``run``; ``die``: kills itself after the broker has acknowledged the first batch.
"""

import asyncio
import os
import signal
import sys

from outbox_support import connect, make_relay


async def main(url: str, servers: str, lease: str, how: str) -> None:
    # Not above: the package's tests also run where no other transport is installed.
    from common.events.nats import NatsConfig, NatsTransport

    class Dying(NatsTransport):
        async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
            found = await super().publish_many(messages, timeout=timeout)
            os.kill(os.getpid(), signal.SIGKILL)
            return found

    kind = Dying if how == "die" else NatsTransport
    config = NatsConfig.model_validate({"servers": [servers]})
    # Paused in the midst of a transaction, it must not hold up the others for a minute.
    async with connect(url, idle_transaction_seconds=2) as database, kind(config) as transport:
        relay = make_relay(database, transport, lease_seconds=float(lease), batch_size=5)
        sys.stdout.write("started\n")
        sys.stdout.flush()
        await relay.run(drain=10)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
