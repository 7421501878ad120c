"""The `post-processing` command."""

import asyncio
import logging

from common.db.postgres import PostgresDatabase
from common.errors import AppError
from post_processing import logs
from post_processing.settings import Settings, from_environment
from post_processing.tables import migrations
from post_processing.worker import make_worker

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in hand."""
    await migrations(settings.database).upgrade()
    async with PostgresDatabase(settings.database) as database:
        bus = make_worker(settings, database)
        await bus.start()
        logger.info("consuming")
        await bus.run(drain=DRAIN_SECONDS)


def main() -> None:
    """Work with the settings of the environment."""
    logs.set_up()
    try:
        asyncio.run(serve(from_environment()))
    except AppError as error:
        raise SystemExit(f"post-processing: {error}") from None
