"""The `post-processing` command."""

import asyncio
import logging
import signal

import nats

from common.config import ConfigError
from common.db.postgres import PostgresDatabase
from common.errors import DatabaseError
from post_processing.settings import Settings, from_environment
from post_processing.tables import migrations
from post_processing.worker import Worker


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish what was fetched."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await migrations(settings.database).upgrade()
    async with PostgresDatabase(settings.database) as database:
        connection = await nats.connect(
            settings.nats_url.get_secret_value(), max_reconnect_attempts=-1
        )
        try:
            await Worker(connection, database).run(stopping)
        finally:
            await connection.close()


def main() -> None:
    """Work with the settings of the environment."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        asyncio.run(serve(from_environment()))
    except (ConfigError, DatabaseError) as error:
        raise SystemExit(f"post-processing: {error}") from None
