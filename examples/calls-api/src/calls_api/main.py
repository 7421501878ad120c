"""The `calls-api` command."""

import uvicorn

from calls_api.app import create_app
from calls_api.settings import from_environment
from common.config import ConfigError


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        settings = from_environment()
    except ConfigError as error:
        raise SystemExit(f"calls-api: {error}") from None
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )
