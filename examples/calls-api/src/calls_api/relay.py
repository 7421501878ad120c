"""The `calls-api-relay` command: publishes the events that this service has committed."""

import asyncio
import logging

from calls_api import logs
from calls_api.events import make_bus
from calls_api.settings import Settings, from_environment
from calls_api.tables import migrations
from common.db.postgres import PostgresDatabase
from common.errors import AppError
from common.events.outbox import Relay

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0


async def serve(settings: Settings) -> None:
    """Publish until SIGTERM or SIGINT, then finish what is in hand."""
    await migrations(settings.database).upgrade()
    async with PostgresDatabase(settings.database) as database, make_bus(settings) as bus:
        relay = Relay(database, bus.transport, settings.relay)
        await relay.start()
        logger.info("relaying")
        await relay.run(drain=DRAIN_SECONDS)


def main() -> None:
    """Publish with the settings of the environment."""
    logs.set_up()
    try:
        asyncio.run(serve(from_environment()))
    except AppError as error:
        raise SystemExit(f"calls-api-relay: {error}") from None


if __name__ == "__main__":
    main()
