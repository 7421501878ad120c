"""The running system: servers from wheels, services as processes of their own."""

import asyncio
import json
import secrets
import sysconfig
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.testing import ManagedProcess, NatsServer, PostgresServer, ValkeyServer, reserve_port

LEASE_SECONDS: Final = 3.0
"""After a relay was killed, its replacement may publish so soon."""


@dataclass(frozen=True)
class System:
    """What runs, and where.

    Attributes:
        api: calls-api.
        relay: Publishes what calls-api has committed.
        worker: post-processing.
        worker_relay: Publishes what the worker has committed.
    """

    api_url: str
    postgres_url: str
    nats_url: str
    redis_url: str
    api: ManagedProcess
    relay: ManagedProcess
    worker: ManagedProcess
    worker_relay: ManagedProcess

    @property
    def services(self) -> tuple[ManagedProcess, ...]:
        """All processes that are no servers."""
        return self.api, self.relay, self.worker, self.worker_relay


@asynccontextmanager
async def running_system() -> AsyncGenerator[System]:
    """Start everything; stop and remove everything at the end, however it comes.

    Raises:
        ServerError: something did not start; the message says what to do.
    """
    async with AsyncExitStack() as stack:
        postgres, nats, valkey = PostgresServer(), NatsServer(), ValkeyServer()
        await _start(stack, postgres, nats, valkey)
        port = stack.enter_context(reserve_port())
        calls = {
            "CALLS_DATABASE__URL": postgres.url,
            "CALLS_DATABASE__CURSOR_KEYS": json.dumps([secrets.token_hex(32)]),
            "CALLS_NATS__SERVERS": json.dumps([nats.url]),
            "CALLS_REDIS_URL": valkey.url,
            "CALLS_PORT": str(port),
            "CALLS_RELAY__LEASE_SECONDS": str(LEASE_SECONDS),
            "CALLS_DRAIN_SECONDS": "0",  # there is no load balancer
        }
        api_url = f"http://127.0.0.1:{port}"
        post_processing = {
            "POST_PROCESSING_DATABASE__URL": postgres.url,
            "POST_PROCESSING_NATS__SERVERS": json.dumps([nats.url]),
            "POST_PROCESSING_CALLS_API_URL": api_url,
            "POST_PROCESSING_RELAY__LEASE_SECONDS": str(LEASE_SECONDS),
        }
        system = System(
            api_url=api_url,
            postgres_url=postgres.url,
            nats_url=nats.url,
            redis_url=valkey.url,
            api=_service("calls-api", calls, ready=port),
            relay=_service("calls-api-relay", calls, ready='"event": "relaying"'),
            worker=_service("post-processing", post_processing, ready='"event": "consuming"'),
            worker_relay=_service(
                "post-processing-relay", post_processing, ready='"event": "relaying"'
            ),
        )
        await _start(stack, *system.services)
        yield system


async def _start(stack: AsyncExitStack, *processes: ManagedProcess) -> None:
    """Start processes side by side; raise the first failure when all have started or failed."""
    started = await asyncio.gather(
        *(stack.enter_async_context(each) for each in processes), return_exceptions=True
    )
    for each in started:
        if isinstance(each, BaseException):
            raise each


def _service(name: str, environment: dict[str, str], *, ready: int | str) -> ManagedProcess:
    command = Path(sysconfig.get_path("scripts")) / name
    return ManagedProcess(command, env=environment, ready=ready, ready_timeout=60, name=name)
