"""The outbox: relaying, waking, idling, not growing, and what it costs those who write.

Relay and worker are processes of their own where time between processes is measured; what is no
time per operation (latency, CPU of an idle relay, sizes of tables) is printed, and held to its
promise at the end.
"""

# The peers are in the bench group, which `make check` does without.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import nats
import psutil

from benchmarks._harness import Bar, Group
from common.db.postgres import PostgresConfig, PostgresDatabase
from common.domain import Event, Registry, Stream, Streams
from common.events.core import BusConfig, EventBus, EventContext, Receipt, StreamSpec
from common.events.nats import NatsConfig, NatsTransport
from common.events.outbox import Outbox, Relay, RelayConfig
from common.events.outbox._outbox import _INSERT, _row, partition_of
from common.events.outbox._schema import names_in
from common.events.outbox._sql import fetch
from common.events.outbox.migrations import OutboxMigrations
from common.testing import ManagedProcess, NatsServer, PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence

    from common.errors import MessageBusError
    from common.events.core import Outgoing

NUMBER = 10_000
ROUNDS = 5
KEYS = 1_000
WRITERS = 8
CHANGES = 100
GROWN = 1_000_000
CHUNK = 1_000
AHEAD = 5_000
SAMPLES = 41
MOST_LATENCY = 0.025
MOST_IDLE = 0.01
IDLE_SECONDS = 30.0
MOST_BYTES = 64 << 20
MOST_GROWTH = 1.5  # without bound it would be 2

REGISTRY = Registry()
STREAMS = Streams([Stream("BENCH", ("bench",))], services={"bench": ["BENCH"]})
# An archive is autovacuum's alone; so often that a measurement sees it at work many times.
BUSY = {"autovacuum_naptime": "10s"}


class Completed(Event, type="bench.completed", key="call", registry=REGISTRY):
    """Something of about 256 bytes."""

    call: str
    text: str = "x" * 230


def outbox() -> Outbox:
    return Outbox(source="/bench", registry=REGISTRY, streams=STREAMS)


def database_of(url: str) -> PostgresDatabase:
    return PostgresDatabase(PostgresConfig.model_validate({"url": url}))


def transport_of(url: str) -> NatsTransport:
    return NatsTransport(NatsConfig.model_validate({"servers": url}))


def bus_of(url: str) -> EventBus:
    return EventBus(
        transport_of(url),
        source="/bench",
        registry=REGISTRY,
        streams=STREAMS,
        config=BusConfig(declare="off"),
    )


async def groups() -> AsyncIterator[Group]:
    """One server of each kind for all; every contender has a database of its own."""
    missed: list[str] = []
    async with PostgresServer(settings=BUSY) as postgres, NatsServer() as server:
        transport = transport_of(server.url)
        async with transport:
            spec = StreamSpec(name="BENCH", subjects=("evt.bench.>",), max_messages=100_000)
            await transport.declare([spec], mode="create")
            missed += await latency(await prepared(postgres, "latency"), server.url)
            async for group in relaying(postgres, server.url):
                yield group
            for archive in (False, True):
                name = "archived" if archive else "grown"
                missed += await growth(await prepared(postgres, name), transport, archive=archive)
    # What a commit costs is the disk's affair: here it must be one, and commits be synced.
    with servers_on_disk():
        async with PostgresServer(settings={**BUSY, "fsync": "on"}) as postgres:
            async for group in writing(await prepared(postgres, "writing")):
                yield group
    if missed:
        raise SystemExit("\n".join(missed))


async def prepared(postgres: PostgresServer, name: str) -> str:
    """Make a database with the tables; return its URL."""
    await postgres.execute(f"CREATE DATABASE {name}")
    url = postgres.database_url(name)
    await OutboxMigrations(PostgresConfig.model_validate({"url": url})).upgrade()
    return url


@contextmanager
def servers_on_disk() -> Generator[None]:
    before = os.environ.get("COMMON_TESTING_DIRECTORY")
    os.environ["COMMON_TESTING_DIRECTORY"] = tempfile.gettempdir()
    try:
        yield
    finally:
        del os.environ["COMMON_TESTING_DIRECTORY"]
        if before is not None:
            os.environ["COMMON_TESTING_DIRECTORY"] = before


def verdict(text: str, *, met: bool) -> list[str]:
    """Print a figure, and return what missed its promise."""
    print(f"{text}: {'met' if met else 'MISSED'}", flush=True)
    return [] if met else [text]


# Relaying what waits


class Filler:
    """Adds copies of an event to an outbox, in the server."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.keys = [f"call-{number}" for number in range(KEYS)]

    async def template(self, database: PostgresDatabase) -> None:
        """Have one event written as services write it; the others have its bytes."""
        async with database.transaction() as tx:
            await outbox().add(tx, Completed(call="call-0"))
        await self.connection.execute("CREATE TABLE template AS SELECT * FROM outbox")
        await self.connection.execute("DELETE FROM outbox")
        await self.connection.execute(
            "CREATE TABLE call AS SELECT * FROM "
            "unnest($1::int[], $2::text[], $3::smallint[]) AS c (number, id, partition)",
            range(KEYS),
            self.keys,
            [partition_of(key) for key in self.keys],
        )

    async def add(self, count: int) -> None:
        """Add so many, of all keys in turn."""
        await self.connection.execute(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition, stream,"
            " subject, headers) SELECT gen_random_uuid(), t.aggregatetype, c.id, t.type, t.payload,"
            " c.partition, t.stream, t.subject, t.headers FROM template t,"
            " generate_series(1, $1) AS n JOIN call c ON c.number = n % $2 ORDER BY n",
            count,
            KEYS,
            timeout=600,
        )


class Gated(NatsTransport):
    """Lets a given number of messages through, in whole batches."""

    left = 0

    def __init__(self, config: NatsConfig) -> None:
        super().__init__(config)
        self.opened = asyncio.Event()
        self.done = asyncio.Event()

    async def publish_many(
        self,
        messages: Sequence[Outgoing],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as the port has it
    ) -> list[Receipt | MessageBusError]:
        await self.opened.wait()
        results = await super().publish_many(messages, timeout=timeout)
        self.left -= len(messages)
        if self.left <= 0:
            self.opened.clear()
            self.done.set()
        return results

    async def let(self, number: int) -> None:
        """Run a round; what a batch is too large counts for the next."""
        self.left += number
        self.done.clear()
        self.opened.set()
        await self.done.wait()


async def relaying(postgres: PostgresServer, broker: str) -> AsyncIterator[Group]:
    """A full outbox, and how fast it empties; the peer is the loop that everybody writes first."""
    config = NatsConfig.model_validate({"servers": broker})
    async with AsyncExitStack() as stack:
        urls = {}
        for name in ("relay", "relay_archive", "naive"):
            urls[name] = await prepared(postgres, name)
            connection = await asyncpg.connect(urls[name])
            filler = Filler(connection)
            database = await stack.enter_async_context(database_of(urls[name]))
            await filler.template(database)
            await filler.add((ROUNDS + 3) * NUMBER)
            await connection.execute("ANALYZE outbox")
            await connection.close()

        async def gated(name: str, *, archive: bool) -> Gated:
            transport = await stack.enter_async_context(Gated(config))
            database = await stack.enter_async_context(database_of(urls[name]))
            relay = Relay(database, transport, RelayConfig(archive=archive, lease_seconds=300))
            await stack.enter_async_context(relay)
            return transport

        plain = await gated("relay", archive=False)
        archiving = await gated("relay_archive", archive=True)
        naive = await naive_loop(urls["naive"], broker, stack)
        yield Group(
            name="relay, 256 B",
            contenders={
                "relay": plain.let,
                "relay, archive": archiving.let,
                "loop: js.publish": naive,
            },
            number=NUMBER,
            rounds=ROUNDS,
            bars=[Bar(contender="relay", rate=5_000)],
        )
        plain.left = archiving.left = 1 << 60  # let them end
        plain.opened.set()
        archiving.opened.set()


async def naive_loop(url: str, broker: str, stack: AsyncExitStack):
    """Read and lock a batch, publish one after another, delete: on asyncpg and nats-py alone."""
    connection = await asyncpg.connect(url)
    stack.push_async_callback(connection.close)
    nc = await nats.connect(broker)
    stack.push_async_callback(nc.close)
    js = nc.jetstream()
    read = "SELECT * FROM outbox ORDER BY position LIMIT 500 FOR UPDATE SKIP LOCKED"

    async def run(number: int) -> None:
        while number > 0:
            async with connection.transaction():
                rows = await connection.fetch(read)
                for row in rows:
                    headers = {"Nats-Msg-Id": row["id"]}
                    await js.publish(row["subject"], row["payload"], headers=headers)
                await connection.execute(
                    "DELETE FROM outbox WHERE position = ANY ($1)", [r["position"] for r in rows]
                )
                number -= len(rows)

    return run


# Waking and idling


class Program(ManagedProcess):
    """This module, as a relay or a worker."""

    def __init__(self, kind: str, **options: str) -> None:
        command = (sys.executable, "-m", "benchmarks.events_outbox", kind, json.dumps(options))
        super().__init__(*command, name=kind, ready="ready")

    def cpu(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system


async def latency(url: str, broker: str) -> list[str]:
    """From just before COMMIT to the start of the handler in another process, everything idle."""
    chance = random.Random(1)
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Program("relay", postgres=url, nats=broker))
        worker = await stack.enter_async_context(Program("worker", nats=broker))
        database = await stack.enter_async_context(database_of(url))
        found: list[float] = []
        await asyncio.sleep(2)
        for number in range(SAMPLES + 3):
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            async with database.transaction() as tx:
                await outbox().add(tx, Completed(call=f"call-{number}"))
                began = time.monotonic_ns()
            handled = await arrival(worker, number)
            if number >= 3:  # the first ones warm up
                found.append((handled - began) / 1e9)
        before, began = relay.cpu(), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (relay.cpu() - before) / (time.monotonic() - began)
    median, most = statistics.median(found), max(found)
    text = f"commit to handler, idle: median {median * 1e3:.1f} ms, most {most * 1e3:.1f} ms"
    met = verdict(f"{text} (median at most {MOST_LATENCY * 1e3:g} ms)", met=median <= MOST_LATENCY)
    text = f"CPU of an idle relay: {idle:.2%} of a core (at most {MOST_IDLE:.0%})"
    return met + verdict(text, met=idle <= MOST_IDLE)


async def arrival(worker: Program, number: int) -> int:
    """Wait for the worker's line about a message; return its time."""
    async with asyncio.timeout(30):
        while True:
            for line in worker.output().splitlines():
                match line.split():
                    case ["handled", call, at] if call == f"call-{number}":
                        return int(at)
                    case _:
                        pass
            await asyncio.sleep(0.05)


async def relay_program(postgres: str, nats: str) -> None:
    async with database_of(postgres) as database, transport_of(nats) as transport:
        relay = Relay(database, transport)
        say("ready")
        await relay.run()


async def worker_program(nats: str) -> None:
    bus = bus_of(nats)

    @bus.subscribe(Completed, durable=f"worker-{os.getpid()}", dead_letter=False)
    async def handle(event: Completed, _: EventContext) -> None:
        say("handled", event.call, time.monotonic_ns())

    say("ready")
    await bus.run()


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


# Not growing


async def growth(url: str, transport: NatsTransport, *, archive: bool) -> list[str]:
    """Sizes while a million events go through an outbox that is written as fast as relayed."""
    config = RelayConfig(
        archive=archive,
        keep_archive=timedelta(seconds=5),
        upkeep_seconds=2,
    )
    sizes: list[int] = []
    async with database_of(url) as database, asyncpg_of(url) as connection:
        filler = Filler(connection)
        await filler.template(database)
        began = time.monotonic()
        async with Relay(database, transport, config) as relay:
            for number in range(0, GROWN, CHUNK):
                await fewer(connection, AHEAD - CHUNK)
                await filler.add(CHUNK)
                if number % (GROWN // 50) == 0:
                    sizes.append(await size(connection))
                if number % (GROWN // 10) == 0:
                    print(f"  {number:,}: {await story(connection)}", flush=True)
            await fewer(connection, 0)
            seconds = time.monotonic() - began
            lag = await relay.lag()
        sizes.append(await size(connection))
    assert not lag.rows
    half = len(sizes) // 2
    early, late = max(sizes[:half]), max(sizes[half:])
    # How large an archive is depends on how long it keeps, and how seldom autovacuum comes.
    most = max(sizes) if archive else MOST_BYTES
    text = (
        f"{GROWN:,} events through the outbox ({'archive and prune' if archive else 'no archive'})"
        f", {GROWN / seconds:,.0f}/s: tables and indexes at most {early / (1 << 20):.1f} MB in the "
        f"first half, {late / (1 << 20):.1f} MB in the second (at most {MOST_GROWTH:g} of that, "
        f"and {most / (1 << 20):.0f} MB)"
    )
    return verdict(text, met=late <= MOST_GROWTH * early and late <= most)


@asynccontextmanager
async def asyncpg_of(url: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def fewer(connection: asyncpg.Connection, most: int) -> None:
    """Wait until no more than so many messages wait."""
    while await one(connection, "SELECT count(*) FROM outbox") > most:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def one(connection: asyncpg.Connection, sql: str) -> int:
    found = await connection.fetchval(sql)
    assert isinstance(found, int)
    return found


async def size(connection: asyncpg.Connection) -> int:
    return await one(
        connection,
        "SELECT pg_total_relation_size('outbox') + pg_total_relation_size('outbox_archive')",
    )


async def story(connection: asyncpg.Connection) -> str:
    rows = await connection.fetch(
        "SELECT relname, pg_relation_size(oid) AS size FROM pg_class WHERE relname = ANY ($1)",
        ["outbox", "pk_outbox", "ix_outbox_failed", "outbox_archive", "pk_outbox_archive"],
    )
    kept = await one(connection, "SELECT count(*) FROM outbox_archive")
    return f"{kept:,} archived, " + ", ".join(
        f"{row['relname']} {row['size'] / (1 << 20):.1f} MB" for row in rows
    )


# What it costs writers


async def writing(url: str) -> AsyncIterator[Group]:
    """Transactions of an update and perhaps an event, by eight writers at once."""
    async with database_of(url) as database, asyncpg_of(url) as connection:
        await connection.execute(
            "CREATE TABLE call (id text PRIMARY KEY, number int NOT NULL) WITH (fillfactor = 50)"
        )
        await connection.executemany(
            "INSERT INTO call VALUES ($1, 0)", [(str(n),) for n in range(WRITERS)]
        )
        listener = await asyncpg.connect(url)
        await listener.add_listener("outbox", lambda *_: None)
        box = outbox()

        async def change(writer: int, number: int, *, event: bool) -> None:
            for _ in range(number):
                async with database.transaction() as tx:
                    await update(tx, str(writer))
                    if event:
                        await box.add(tx, Completed(call=str(writer)))

        async def run(number: int, *, event: bool) -> None:
            each = number // WRITERS
            await asyncio.gather(*(change(n, each, event=event) for n in range(WRITERS)))

        async def alone(number: int) -> None:
            await run(number, event=False)

        async def added(number: int) -> None:
            await run(number, event=True)

        yield Group(
            name=f"transaction, {WRITERS} writers, synced",
            contenders={"update alone": alone, "with outbox.add": added},
            number=WRITERS * CHANGES,
            rounds=9,
        )
        async with AsyncExitStack() as stack:
            contenders = await notifying(url, connection, stack)
            yield Group(
                name=f"the INSERT by itself, {WRITERS} writers, synced",
                contenders=contenders,
                number=WRITERS * CHANGES * 3,
                rounds=9,
            )
        await listener.close()


async def notifying(url: str, connection: asyncpg.Connection, stack: AsyncExitStack):
    """The outbox's statement, which notifies only if a relay sleeps; on asyncpg alone."""
    statement = names_in(None).sql(_INSERT)
    encoder = bus_of("nats://localhost")
    rows = [_row(encoder.encode(Completed(call=str(n)), id=str(n))) for n in range(WRITERS)]
    values = [[[value] for value in row] for row in rows]
    writers = [await stack.enter_async_context(asyncpg_of(url)) for _ in range(WRITERS)]

    async def write(writer: int, number: int) -> None:
        for _ in range(number):
            await writers[writer].fetch(statement, *values[writer])

    async def run(number: int) -> None:
        await asyncio.gather(*(write(n, number // WRITERS) for n in range(WRITERS)))

    async def quiet(number: int) -> None:
        await connection.execute("DELETE FROM outbox_relay")
        await run(number)

    async def waking(number: int) -> None:
        await connection.execute(
            "INSERT INTO outbox_relay (owner, expires_at, waiting) "
            "VALUES ('somebody', 'infinity', true) ON CONFLICT DO NOTHING"
        )
        await run(number)

    return {"relays busy: no pg_notify": quiet, "a relay sleeps: pg_notify": waking}


async def update(tx, key: str) -> None:
    await fetch(tx, "update", "call", "UPDATE call SET number = number + 1 WHERE id = $1", key)


if __name__ == "__main__":
    program = {"relay": relay_program, "worker": worker_program}[sys.argv[1]]
    asyncio.run(program(**json.loads(sys.argv[2])))
