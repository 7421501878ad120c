"""What the processes of a fault history share: a vocabulary, a schema, databases, a bus."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from common.db.core import ConnectionLost
from common.db.postgres import PostgresConfig, PostgresDatabase
from common.domain import Event, Registry, Stream, Streams
from common.events.core import BusConfig, EventBus, StreamSpec
from common.events.nats import NatsConfig, NatsTransport

LEDGER = "LEDGER"
DURABLE = "ledger"
REGISTRY = Registry()
STREAMS = Streams([Stream(LEDGER, ("ledger",))], services={"bank": [LEDGER]})

SCHEMA = """\
CREATE TABLE account (id text PRIMARY KEY, number integer NOT NULL DEFAULT 0);
CREATE TABLE change (
    id text COLLATE "C" PRIMARY KEY, account text NOT NULL, number integer NOT NULL,
    writer integer NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    held_at timestamptz);
CREATE TABLE effect (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL,
    account text NOT NULL, number integer NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp());
"""
"""A change is its own proof: its row commits with the event, whatever became of the writer. No
constraint keeps a second effect out: finding one is the test's work."""


class Booked(Event, type="ledger.booked", key="account", registry=REGISTRY):
    """The number of an account's change: without gaps among those that committed."""

    account: str
    number: int


def connect(url: str, **options: Any) -> PostgresDatabase:
    """Return a database whose users notice faults within seconds."""
    values = {"pool_size": 8, "max_overflow": 8, "connect_timeout_seconds": 3}
    return PostgresDatabase(PostgresConfig.model_validate({"url": url, **values, **options}))


def make_transport(url: str) -> NatsTransport:
    """Return a transport that waits for long until it can connect."""
    values = {
        "servers": url,
        "connect_timeout_seconds": 60,
        "reconnect_max_seconds": 0.5,
        "ack_timeout_seconds": 0.5,
        "ping_interval_seconds": 1,
    }
    return NatsTransport(NatsConfig.model_validate(values))


def make_bus(url: str) -> EventBus:
    """Return a bus whose stream keeps everything, and remembers ids for all of a history."""
    spec = StreamSpec(
        name=LEDGER,
        subjects=STREAMS[LEDGER].subjects,
        max_messages_per_subject=None,
        duplicate_window=timedelta(hours=1),
    )
    return EventBus(
        make_transport(url),
        source="/bank",
        registry=REGISTRY,
        streams=STREAMS,
        config=BusConfig(streams=(spec,)),
    )


def accounts(count: int) -> Sequence[str]:
    """Return the keys."""
    return [f"a{number:02}" for number in range(count)]


def say(*words: object) -> None:
    """Print a line at once; the process may be killed."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[PostgresDatabase]:
    """Open a database, as soon as it answers: a process may start while it is away."""
    while True:
        database = connect(url)
        try:
            await database.open()
        except ConnectionLost:
            await asyncio.sleep(0.1)
        else:
            break
    try:
        yield database
    finally:
        await database.close()


def begin() -> None:
    """Let the test see warnings, and end this process before it is at work."""
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    say("ready")
