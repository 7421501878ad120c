"""The running system: servers from wheels, services as processes of their own."""

import json
import secrets
import sysconfig
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common.testing import ManagedProcess, NatsServer, PostgresServer, ValkeyServer, reserve_port


@dataclass(frozen=True)
class System:
    """What runs, and where."""

    api_url: str
    postgres_url: str
    nats_url: str
    redis_url: str
    api: ManagedProcess
    worker: ManagedProcess


@asynccontextmanager
async def running_system() -> AsyncGenerator[System]:
    """Start everything; stop and remove everything at the end, however it comes.

    Raises:
        ServerError: something did not start; the message says what to do.
    """
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(PostgresServer())
        nats = await stack.enter_async_context(NatsServer())
        valkey = await stack.enter_async_context(ValkeyServer())
        port = stack.enter_context(reserve_port())
        api = await stack.enter_async_context(
            ManagedProcess(
                _command("calls-api"),
                env={
                    "CALLS_DATABASE__URL": postgres.url,
                    "CALLS_DATABASE__CURSOR_KEYS": json.dumps([secrets.token_hex(32)]),
                    "CALLS_NATS__SERVERS": json.dumps([nats.url]),
                    "CALLS_REDIS_URL": valkey.url,
                    "CALLS_PORT": str(port),
                },
                ready=port,
                name="calls-api",
            )
        )
        worker = await stack.enter_async_context(
            ManagedProcess(
                _command("post-processing"),
                env={
                    "POST_PROCESSING_DATABASE__URL": postgres.url,
                    "POST_PROCESSING_NATS__SERVERS": json.dumps([nats.url]),
                },
                ready='"event": "consuming"',
                name="post-processing",
            )
        )
        yield System(
            api_url=f"http://127.0.0.1:{port}",
            postgres_url=postgres.url,
            nats_url=nats.url,
            redis_url=valkey.url,
            api=api,
            worker=worker,
        )


def _command(name: str) -> Path:
    return Path(sysconfig.get_path("scripts")) / name
