"""The `post-processing` command."""

import asyncio
import signal

import asyncpg
import nats

from common.config import BaseAppSettings, ConfigError, SecretUrl, load
from post_processing.worker import Worker


class Settings(BaseAppSettings, prefix="POST_PROCESSING_"):
    """Addresses of the servers."""

    database_url: SecretUrl
    """PostgreSQL, such as postgresql://user:password@host/calls."""
    nats_url: SecretUrl
    """NATS with JetStream."""


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish what was fetched."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    database_url = settings.database_url.get_secret_value()
    async with asyncpg.create_pool(database_url, min_size=1, max_size=5) as pool:
        connection = await nats.connect(
            settings.nats_url.get_secret_value(), max_reconnect_attempts=-1
        )
        try:
            await Worker(connection, pool).run(stopping)
        finally:
            await connection.close()


def main() -> None:
    """Read POST_PROCESSING_DATABASE_URL and POST_PROCESSING_NATS_URL, then work."""
    try:
        settings = load(Settings)
    except ConfigError as error:
        raise SystemExit(f"post-processing: {error}") from None
    asyncio.run(serve(settings))
