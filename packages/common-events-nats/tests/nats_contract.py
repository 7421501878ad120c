"""What the contract suite wants to do to servers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from nats_consuming import eventually, until
from nats_settings import settings

from common.events.core._errors import MissingStream
from common.events.core.testing._base import ContractBase, NewTransport
from common.events.nats._errors import ErrCode, JetStreamError
from common.events.nats._transport import NatsTransport
from common.testing import FaultProxy, NatsCluster, NatsServer


def started(servers: NatsServer | NatsCluster) -> Iterator[NatsServer | NatsCluster]:
    """Start servers, yield them, remove them: a fixture's generator."""
    asyncio.run(servers.start())
    try:
        yield servers
    finally:
        asyncio.run(servers.close())


_CRASHING = 4  # transports that a test may crash, of those it opens


async def _delete(transport: NatsTransport, operation: str) -> None:
    """Delete, again without an answer: what is missing by then was deleted before."""
    asked = 0

    async def delete() -> None:
        nonlocal asked
        asked += 1
        try:
            await transport.api.request(operation)
        except MissingStream:
            if asked == 1:
                raise
        except JetStreamError as error:
            if asked == 1 or error.err_code != ErrCode.CONSUMER_NOT_FOUND:
                raise

    await eventually(delete)


class OnNats(ContractBase):
    """Transports to the servers of the fixture ``running``, each through a proxy of its own."""

    capabilities = NatsTransport.capabilities
    proxies: dict[int, FaultProxy]

    @pytest.fixture
    async def new_transport(self, running: NatsServer | NatsCluster) -> AsyncIterator[NewTransport]:
        self.cluster = running if isinstance(running, NatsCluster) else None
        self.servers = running.servers if isinstance(running, NatsCluster) else [running]
        urls = [server.url for server in self.servers]
        self.proxies = {}
        async with AsyncExitStack() as stack:
            spare: list[tuple[str, FaultProxy]] = []
            for number in range(_CRASHING):
                url = urls[number % len(urls)]
                spare.append((url, await stack.enter_async_context(FaultProxy(url))))

            def new() -> NatsTransport:
                url, proxy = spare.pop() if spare else (urls[0], None)
                server = url if proxy is None else proxy.url(url)
                transport = NatsTransport(
                    settings(server, timeout_seconds=10, ack_timeout_seconds=0.5)
                )
                if proxy is not None:
                    self.proxies[id(transport)] = proxy
                return transport

            yield new
            async with NatsTransport(settings(urls, connect_timeout_seconds=60)) as transport:

                async def empty() -> bool:
                    names = (await transport.api.request("STREAM.NAMES")).get("streams") or []
                    for name in names:
                        await _delete(transport, f"STREAM.DELETE.{name}")
                    return not names

                await until(empty)

    async def crash(self, transport: Any) -> None:
        proxy = self.proxies[id(transport)]
        proxy.refuse()
        proxy.cut()

    async def delete_stream(self, transport: Any, stream: str) -> None:
        await _delete(transport, f"STREAM.DELETE.{stream}")

    async def delete_consumer(self, transport: Any, stream: str, durable: str) -> None:
        await _delete(transport, f"CONSUMER.DELETE.{stream}.{durable}")

    async def restart_broker(self) -> None:
        for server in self.servers:
            server.kill()
        await asyncio.gather(*(server.restart() for server in self.servers))
        if self.cluster is not None:
            await self.cluster.wait_ready(60)
