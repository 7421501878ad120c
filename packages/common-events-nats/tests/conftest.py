"""Connections to a real server: a transport, and the parts beneath it; each with one stream."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.events.core._declarations import StreamSpec
from common.events.core._transport import Outgoing
from common.events.nats._config import NatsConfig
from common.events.nats._transport import NatsTransport

sys.path.append(str(Path(__file__).parent))  # importlib mode leaves it out

from nats_consuming import Nats, connected
from nats_settings import settings

CALLS = StreamSpec(name="CALL", subjects=("evt.call.>",))

Make = Callable[..., Outgoing]


@pytest.fixture
def config(nats_url: str) -> NatsConfig:
    return settings(nats_url, timeout_seconds=10, ack_timeout_seconds=0.5)


@pytest.fixture
async def transport(config: NatsConfig) -> AsyncIterator[NatsTransport]:
    async with NatsTransport(config) as opened:
        await opened.declare([CALLS], mode="create")
        yield opened


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[Nats]:
    """A connection, and the stream ``S``."""
    async with connected(nats_url) as nats:
        await nats.stream()
        yield nats


@pytest.fixture
def make() -> Make:
    """Make messages with ids of their own: ``make()``, ``make(subject=…)``."""
    count = 0

    def make(**changes: object) -> Outgoing:
        nonlocal count
        count += 1
        values: dict[str, object] = {
            "subject": "evt.call.completed",
            "data": b'{"n": %d}' % count,
            "id": f"id-{count}",
            "stream": "CALL",
        }
        return Outgoing(**(values | changes))  # type: ignore[arg-type]

    return make
