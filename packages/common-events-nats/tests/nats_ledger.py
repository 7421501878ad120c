"""What tests with processes share: a vocabulary, an inbox that outlives kills, bus, worker."""

import asyncio
import json
import sqlite3
import sys
import weakref
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from nats_settings import settings

from common.domain import Event, Registry, Stream, Streams
from common.events.core import BusConfig, EventBus, Inbox, InboxTransaction
from common.events.core._bus_config import DEAD_LETTER_STREAM
from common.events.core._declarations import StreamSpec
from common.events.nats._transport import NatsTransport
from common.testing import ManagedProcess

LEDGER = "LEDGER"
DEAD = DEAD_LETTER_STREAM.name
DURABLE = "ledger"
REGISTRY = Registry()
STREAMS = Streams([Stream(LEDGER, ("ledger",))], services={"bank": [LEDGER]})


class Booked(Event, type="ledger.booked", key="account", registry=REGISTRY):
    """Something to handle; the mood says how that goes."""

    account: str
    number: int = 0
    mood: str = "good"


def specs(replicas: int) -> tuple[StreamSpec, ...]:
    """Return the streams, each message kept in so many copies."""
    return (
        StreamSpec(name=LEDGER, subjects=STREAMS[LEDGER].subjects, replicas=replicas),
        StreamSpec(
            name=DEAD_LETTER_STREAM.name,
            subjects=DEAD_LETTER_STREAM.subjects,
            max_age=DEAD_LETTER_STREAM.max_age,
            max_messages_per_subject=None,
            replicas=replicas,
        ),
    )


def make_bus(servers: Sequence[str], *, replicas: int = 1, **changes: Any) -> EventBus:
    """Return a bus that waits for long until it can connect."""
    values = {
        "connect_timeout_seconds": 60,
        "reconnect_max_seconds": 0.5,
        "ack_timeout_seconds": 0.5,
        "ping_interval_seconds": 1,
    }
    return EventBus(
        NatsTransport(settings(servers, **(values | changes))),
        source="/bank",
        registry=REGISTRY,
        streams=STREAMS,
        config=BusConfig(streams=specs(replicas)),
    )


class Booking:
    """A transaction of the `SqliteInbox`: what is booked commits with the mark."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def add(self, account: str) -> None:
        self.rows.append(account)


class SqliteInbox(Inbox[Booking]):
    """Marks and effects in one file, which several processes share.

    The file's cache belongs to the machine: what was committed outlives a SIGKILL.
    """

    def __init__(self, path: Path | str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._path = path
        self._open: sqlite3.Connection | None = None

    @asynccontextmanager
    async def transaction(
        self, consumer: str, message_id: str
    ) -> AsyncGenerator[InboxTransaction[Booking]]:
        loop, booking = asyncio.get_running_loop(), Booking()
        duplicate = await loop.run_in_executor(self._thread, self._marked, consumer, message_id)
        yield InboxTransaction(duplicate, booking)
        if not duplicate:
            await loop.run_in_executor(
                self._thread, self._commit, consumer, message_id, booking.rows
            )

    def effects(self) -> list[tuple[str, str, str]]:
        """Return consumer, message id and account of each effect, in the order of commits."""
        return self._database().execute(
            "SELECT consumer, message, account FROM effects ORDER BY place"
        ).fetchall()  # fmt: skip

    def _marked(self, consumer: str, message_id: str) -> bool:
        query = "SELECT 1 FROM marks WHERE consumer = ? AND message = ?"
        return self._database().execute(query, (consumer, message_id)).fetchone() is not None

    def _commit(self, consumer: str, message_id: str, accounts: list[str]) -> None:
        database = self._database()
        with database:  # of two at once the second fails: the mark is there
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO marks VALUES (?, ?)", (consumer, message_id))
            database.executemany(
                "INSERT INTO effects (consumer, message, account) VALUES (?, ?, ?)",
                [(consumer, message_id, account) for account in accounts],
            )

    def _database(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = sqlite3.connect(
                self._path, timeout=60, isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, self._open.close)
            self._open.executescript(
                """
                PRAGMA journal_mode = WAL;
                PRAGMA synchronous = OFF;
                CREATE TABLE IF NOT EXISTS marks (
                    consumer, message, PRIMARY KEY (consumer, message));
                CREATE TABLE IF NOT EXISTS effects (
                    place INTEGER PRIMARY KEY AUTOINCREMENT, consumer, message, account);
                """
            )
        return self._open


_PROGRAM = Path(__file__).with_name("ledger_worker.py")


class Worker(ManagedProcess):
    """A process that handles messages: see ``ledger_worker.py``."""

    def __init__(self, number: int, folder: Path, **options: Any) -> None:
        self.number = number
        super().__init__(
            sys.executable,
            str(_PROGRAM),
            json.dumps({"folder": str(folder), **options}),
            name=f"worker {number}",
        )

    def cpu(self) -> float:
        """Seconds of CPU it has used."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def lines(self, first: str) -> list[int]:
        """The numbers in its lines that start with a word."""
        found = [line.split() for line in self.output().splitlines()]
        return [int(words[1]) for words in found if len(words) == 2 and words[0] == first]
