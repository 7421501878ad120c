"""What the tests share: a vocabulary, databases, and looking into outbox and broker."""

import asyncio
import json
import time
from typing import Any

from common.db.postgres import Listener, PostgresConfig, PostgresDatabase
from common.domain import Event, Registry, Stream, Streams
from common.events.core import InMemoryBroker, InMemoryTransport, StreamSpec, Transport
from common.events.outbox import Outbox, Relay, RelayConfig
from common.events.outbox._sql import fetch

REGISTRY = Registry()
STREAMS = Streams(
    [Stream("LAMP", ("lamp",)), Stream("DOOR", ("door",)), Stream("ATTIC", ("attic",))],
    services={"lamps": ["LAMP", "DOOR"], "doors": ["DOOR"]},
)


class Lit(Event, type="lamp.lit", key="lamp", registry=REGISTRY):
    lamp: str
    number: int = 0


class Flashed(Event, type="lamp.flashed", registry=REGISTRY):
    number: int = 0
    text: str = ""


class Opened(Event, type="door.opened", key="door", registry=REGISTRY):
    door: str
    number: int = 0


class Cleaned(Event, type="attic.cleaned", registry=REGISTRY):
    by: str


class Lost(Event, type="nowhere.lost", registry=REGISTRY):
    what: str


def make_outbox(**options) -> Outbox:
    return Outbox(source="/lamps", registry=REGISTRY, streams=STREAMS, **options)


def config_of(url: str, **options) -> PostgresConfig:
    return PostgresConfig.model_validate({"url": url, **options})


def connect(url: str, **options) -> PostgresDatabase:
    return PostgresDatabase(config_of(url, **options))


def make_relay(database: PostgresDatabase, transport: Transport, **options) -> Relay:
    """Make a relay that loses little time in tests."""
    settings = {
        "lease_seconds": 3,
        "retry_first_seconds": 0.05,
        "retry_max_seconds": 0.2,
        "upkeep_seconds": 0.2,
        **options,
    }
    return Relay(database, transport, RelayConfig.model_validate(settings))


async def declare(transport: Transport, **options) -> None:
    specs = [
        StreamSpec(name=stream.name, subjects=stream.subjects, **options) for stream in STREAMS
    ]
    await transport.declare(specs, mode="create")


async def add(database: PostgresDatabase, *messages, outbox: Outbox | None = None) -> list[str]:
    async with database.transaction() as tx:
        return await (outbox or make_outbox()).add_many(tx, messages)


async def change(database: PostgresDatabase, lamp: str, outbox: Outbox) -> None:
    """Change a row and tell of it, as a service does: the row's lock orders the events."""
    async with database.transaction() as tx:
        rows = await fetch(
            tx,
            "upsert",
            "lamp",
            "INSERT INTO lamp VALUES ($1, 1) "
            "ON CONFLICT (id) DO UPDATE SET number = lamp.number + 1 RETURNING number",
            lamp,
        )
        await outbox.add(tx, Lit(lamp=lamp, number=rows[0][0]))


async def run_sql(database: PostgresDatabase, statement: str, *values):
    return await fetch(database, "test", "test", statement, *values)


async def value(database: PostgresDatabase, statement: str, *values):
    return (await run_sql(database, statement, *values))[0][0]


async def count(database: PostgresDatabase, table: str = "outbox") -> int:
    return await value(database, f"SELECT count(*) FROM {table}")


async def until(condition, *, seconds: float = 60) -> None:
    """Wait until something holds; a plain or an async function tells."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.01)


async def emptied(database: PostgresDatabase) -> None:
    async def empty() -> bool:
        return await count(database) == 0

    await until(empty)


def stored(broker: InMemoryBroker, stream: str = "LAMP") -> list[dict[str, Any]]:
    """Return the envelopes of a stream, in its order."""
    if stream not in broker.streams:
        return []
    return [json.loads(each.data) for each in broker.streams[stream].messages.values()]


def numbers(broker: InMemoryBroker, key: str | None = None, stream: str = "LAMP") -> list[int]:
    """Return the numbers in the events of a stream, of one key if given."""
    return [
        each["data"]["number"]
        for each in stored(broker, stream)
        if key is None or each.get("subject") == key
    ]


def by_key(envelopes: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the numbers of each key, in their order."""
    found: dict[str, list[int]] = {}
    for each in envelopes:
        found.setdefault(each["subject"], []).append(each["data"]["number"])
    return found


class Calls(InMemoryTransport):
    """A transport that counts what it is asked to do."""

    def __init__(self, broker: InMemoryBroker) -> None:
        super().__init__(broker)
        self.batches: list[list[str]] = []

    async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
        self.batches.append([each.id for each in messages])
        return await super().publish_many(messages, timeout=timeout)


class DeafDatabase(PostgresDatabase):
    """A database whose listeners connect through a proxy."""

    def __init__(self, config: PostgresConfig, through: str) -> None:
        super().__init__(config)
        self.through = through

    def listen(self, *channels: str, queue_size: int = 10_000) -> Listener:
        return Listener(config_of(self.through), channels, queue_size=queue_size)


class Slow(InMemoryTransport):
    """Holds messages until it is let go."""

    def __init__(self, broker) -> None:
        super().__init__(broker)
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()

    async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
        self.waiting.set()
        await self.gate.wait()
        return await super().publish_many(messages, timeout=timeout)
