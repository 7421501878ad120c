"""The `post-processing` command."""

import asyncio
import os
import signal

import asyncpg
import nats

from post_processing.worker import Worker


async def serve(database_url: str, nats_url: str) -> None:
    """Work until SIGTERM or SIGINT, then finish what was fetched."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with asyncpg.create_pool(database_url, min_size=1, max_size=5) as pool:
        connection = await nats.connect(nats_url, max_reconnect_attempts=-1)
        try:
            await Worker(connection, pool).run(stopping)
        finally:
            await connection.close()


def main() -> None:
    """Read CALLS_DATABASE_URL and CALLS_NATS_URL, then work."""
    required = ("CALLS_DATABASE_URL", "CALLS_NATS_URL")
    if missing := [name for name in required if not os.environ.get(name)]:
        raise SystemExit(f"post-processing: set {', '.join(missing)}")
    asyncio.run(serve(*(os.environ[name] for name in required)))
