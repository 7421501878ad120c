"""The `calls-api` command."""

import uvicorn
from fastapi import FastAPI

from calls_api import logs
from calls_api.app import create_app
from calls_api.settings import Settings, from_environment
from common.config import ConfigError


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # `install` counts the proxies
        server_header=False,
        timeout_graceful_shutdown=10,
    )


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    logs.set_up()
    try:
        settings = from_environment()
        app = create_app(settings)
    except (ConfigError, ValueError) as error:
        raise SystemExit(f"calls-api: {error}") from None
    server = uvicorn.Server(server_config(app, settings))
    server.run()
    if not server.started:
        raise SystemExit("calls-api: it did not start; the reason is above")
