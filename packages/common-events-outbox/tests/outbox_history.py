"""A fault history: writers, relays and workers in processes, and what happens to them."""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from outbox_ledger import DURABLE, LEDGER, SCHEMA, accounts, connect, make_bus
from outbox_support import run_sql, value

from common.db.postgres import PostgresConfig, PostgresDatabase
from common.errors import AppError
from common.events.core import DEAD_LETTERS
from common.events.core.testing import History
from common.events.outbox.migrations import OutboxMigrations
from common.testing import FaultProxy, ManagedProcess, NatsServer, PostgresServer

Fault = Callable[[], Awaitable[None]]

LEASE = 3.0
PATIENCE = 180.0
# Commit times prove that changes were overtaken; memory is for eight processes' connections.
SETTINGS = {"track_commit_timestamp": "on", "autovacuum_naptime": "10s"}
# A held change committed after a later one had its effect: a relay with a cursor had lost it.
OVERTAKEN = """\
SELECT count(*) FROM change c WHERE c.held_at IS NOT NULL AND EXISTS (
    SELECT FROM change d JOIN effect e USING (id)
    WHERE d.made_at > c.held_at AND e.made_at < pg_xact_commit_timestamp(c.xmin))"""


DIES = 9
"""Exit code of a program that ends in the midst of its work because it was told to."""


class Program(ManagedProcess):
    """One of the programs beside this file; knows how it may end, and by whose hand."""

    def __init__(self, kind: str, name: str, log: Path, options: dict[str, Any]) -> None:
        program = Path(__file__).with_name(f"outbox_{kind}.py")
        super().__init__(sys.executable, str(program), json.dumps(options), name=name, log=log)
        self.ends: set[int] = set()
        """Return codes with which it may have ended."""
        if options.get("dies_at"):
            self.ends.add(DIES)

    def kill(self) -> None:
        self.ends.add(-signal.SIGKILL)
        super().kill()

    def doom(self) -> None:
        """Let a worker end when it has committed its next effect, within two seconds."""
        self.ends.add(DIES)
        self.send_signal(signal.SIGUSR1)

    def inspect(self) -> int | None:
        """Return how it ended, ``None`` while it runs.

        Raises:
            AssertionError: It ended, and nobody here saw to that; with what it printed.
        """
        code = self.returncode
        if code is not None and code not in self.ends:
            raise AssertionError(
                f"{self.name} ended by itself with {code}:\n{self.output()[-5000:]}"
            )
        return code

    async def ready(self) -> None:
        """Wait until it has started."""
        async with asyncio.timeout(90):
            while "ready" not in self.output():
                self.inspect()
                assert self.running, f"{self.name} was ended before it had started"
                await asyncio.sleep(0.05)


class Play:
    """One history, from its seed.

    Args:
        seed: All that is drawn here is drawn from it.
        folder: For the journal.
        changes: To commit, by all writers together.
        writers, relays, workers: Processes of each kind.
        keys: Accounts.
        tasks: Of a writer, which make changes side by side.
        pause: Mean seconds a task pauses after a transaction.
        hold: Most seconds for which transactions are held open.
        archive: Whether the relays archive what they published.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        changes: int,
        writers: int = 4,
        relays: int = 2,
        workers: int = 2,
        keys: int = 60,
        tasks: int = 4,
        pause: float = 0.0,
        hold: float = 3.0,
        archive: bool = False,
    ) -> None:
        self.history = History(seed=seed, journal=folder / "journal")
        self.random = self.history.random
        self.folder = folder
        self.changes = changes
        self.archive = archive
        self.figures: Counter[str] = Counter()
        self.programs: dict[str, list[Program]] = {"relay": [], "worker": []}
        self.writers: dict[int, Program] = {}
        self._wanted = {"relay": relays, "worker": workers, "writer": writers}
        self._options = {"keys": keys, "tasks": tasks, "pause": pause, "hold": hold}
        self._stack = AsyncExitStack()
        self._started = 0
        self._begun = time.monotonic()

    # Beginning and end

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            self.postgres = await stack.enter_async_context(PostgresServer(settings=SETTINGS))
            self.nats = await stack.enter_async_context(NatsServer())
            await self._prepare()
            self.proxy = await stack.enter_async_context(FaultProxy(self.postgres.url))
            self.database: PostgresDatabase = await stack.enter_async_context(
                connect(self.postgres.url)
            )
            self.bus = await stack.enter_async_context(make_bus(self.nats.url))
            await self._hire_all()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _prepare(self) -> None:
        await OutboxMigrations(PostgresConfig.model_validate({"url": self.postgres.url})).upgrade()
        names = ", ".join(f"('{name}')" for name in accounts(int(self._options["keys"])))
        await self.postgres.execute(f"{SCHEMA} INSERT INTO account (id) VALUES {names};")

    async def _hire_all(self) -> None:
        for kind in self.programs:
            for _ in range(self._wanted[kind]):
                self.programs[kind].append(await self._hire(kind))
        async with asyncio.TaskGroup() as group:
            for program in [*self.programs["relay"], *self.programs["worker"]]:
                group.create_task(program.ready())

    async def _hire(self, kind: str, **options: Any) -> Program:
        options["postgres"] = self.proxy.url(self.postgres.url)
        if kind != "writer":
            options["nats"] = self.nats.url
        if kind != "relay":
            options["folder"] = str(self.folder)
        else:
            options |= {"lease_seconds": LEASE, "retry_max_seconds": 1.0, "archive": self.archive}
        self._started += 1
        name = f"{kind} {self._started}"
        program = Program(kind, name, self.folder / f"{name}.log", options)
        await self._stack.enter_async_context(program)
        return program

    # Writing

    async def write(self, number: int) -> None:
        """Keep one writer at work until it has committed its share."""
        wanted = self.changes // self._wanted["writer"]
        # Each writer dies once in the midst of a transaction, and now and then again.
        dies_at = self.random.randrange(10, 60)
        while (missing := wanted - await self._made(number)) > 0:
            writer = self.writers[number] = await self._hire(
                "writer",
                number=number,
                wanted=missing,
                dies_at=dies_at,
                seed=self.random.randrange(2**32),
                **self._options,
            )
            writer.ends.add(0)
            await writer.wait(timeout=900)
            if writer.inspect() == DIES:
                self.figures["writer died in a transaction"] += 1
                again = missing > 2_000 and self.random.random() < 0.3
                dies_at = self.random.randrange(100, 1_000) if again else 0

    async def _made(self, number: int) -> int:
        sql = "SELECT count(*) FROM change WHERE writer = $1"
        return int(await self._ask(sql, number))

    async def _ask(self, sql: str, *values: object) -> Any:
        """Ask the database, as soon as it answers."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await value(self.database, sql, *values)
                except AppError:
                    await asyncio.sleep(0.1)

    # Faults

    def faults(self) -> dict[str, Fault]:
        return {
            "postgres killed": lambda: self.kill_server(self.postgres),
            "postgres paused": lambda: self.pause(self.postgres, 4),
            "postgres cut off": self.cut_off,
            "nats killed": lambda: self.kill_server(self.nats),
            "nats paused": lambda: self.pause(self.nats, 4),
            "relay killed": lambda: self.kill("relay"),
            "relay paused": lambda: self.pause(self.random.choice(self.programs["relay"]), 6),
            "relay stopped": lambda: self.stop("relay"),
            "worker killed": lambda: self.kill("worker"),
            "worker died before ack": self.die_before_ack,
            "worker paused": lambda: self.pause(self.random.choice(self.programs["worker"]), 6),
            "writer killed": self.kill_writer,
            "writer paused": self.pause_writer,
        }

    async def kill_server(self, server: ManagedProcess) -> None:
        server.kill()
        await asyncio.sleep(self.random.uniform(0, 1.5))
        await server.restart()

    async def pause(self, process: ManagedProcess, longest: float) -> None:
        process.pause()
        try:
            await asyncio.sleep(self.random.uniform(0.2, longest))
        finally:
            process.resume()

    async def cut_off(self) -> None:
        """Swallow the database's answers, also those that tell of commits; then reset."""
        if self.random.random() < 0.8:
            self.proxy.drop(direction="downstream")
            await asyncio.sleep(self.random.uniform(0.05, 1))
            self.proxy.heal()
        else:
            self.proxy.cut()

    async def die_before_ack(self) -> None:
        """Let whichever worker is next end between the commit of an effect and its ack."""
        for worker in self.programs["worker"]:
            await worker.ready()
            worker.doom()
        await asyncio.sleep(2.5)
        await self._replace_dead()

    async def _replace_dead(self) -> None:
        """Replace workers that ended as they were told; that no other ended is asserted."""
        for program in [*self.programs["relay"], *self.programs["worker"]]:
            if program.inspect() == DIES:
                self.figures["effects committed, but not acked"] += 1
                await self._replace("worker", program)

    async def kill(self, kind: str) -> None:
        """Kill one; of the relays not the first, which lives through everything."""
        program = self._victim(kind)
        program.kill()
        await self._replace(kind, program)

    async def stop(self, kind: str) -> None:
        program = self._victim(kind)
        await program.ready()
        program.ends.add(0)
        await program.stop(grace=60)
        program.inspect()
        await self._replace(kind, program)

    def _victim(self, kind: str) -> Program:
        # Of the workers one has all messages, and the others stand by: it may be the first.
        return self.random.choice(self.programs[kind][kind == "relay" :])

    async def _replace(self, kind: str, program: Program) -> None:
        self.programs[kind].remove(program)
        await asyncio.sleep(self.random.uniform(0, 0.5))
        self.programs[kind].append(await self._hire(kind))

    def _at_work(self) -> list[Program]:
        return [writer for writer in self.writers.values() if writer.running]

    async def kill_writer(self) -> None:
        if writers := self._at_work():
            self.random.choice(writers).kill()

    async def pause_writer(self) -> None:
        if writers := self._at_work():
            await self.pause(self.random.choice(writers), 3)

    async def strike(self, writing: "asyncio.Future[Any]", gap: float, once: Sequence[str]) -> None:
        """Let faults happen while changes are made, now and then two at once."""
        faults = self.faults()
        left = self.random.sample(once, len(once))
        while not writing.done() and (left or not once):
            await asyncio.sleep(self.random.uniform(0.1, gap))
            left = left or self.random.sample(sorted(faults), len(faults))
            both, left = left[:1], left[1:]
            if left and self.random.random() < 0.3 and _differ(both[0], left[0]):
                both, left = [*both, left[0]], left[1:]
            self.figures.update(both)
            await self._replace_dead()
            await asyncio.gather(*(faults[name]() for name in both))

    # The whole

    async def run(self, *, gap: float, once: Sequence[str] = ()) -> None:
        """Change while faults happen, let everything recover by itself, close the books.

        Args:
            gap: Most seconds between faults.
            once: Faults that happen once each; by default all, again and again.
        """
        writing = asyncio.gather(*(self.write(n) for n in range(self._wanted["writer"])))
        try:
            await self.strike(writing, gap, once)
            await writing
        except BaseException:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            raise
        self.figures["seconds writing"] = round(time.monotonic() - self._begun)
        await self._settle()
        for programs in self.programs.values():
            for program in programs:
                await program.ready()
                program.ends.add(0)
                await program.stop(grace=60)
                program.inspect()
        await self._close_the_books()

    async def _settle(self) -> None:
        """Wait until every change has its effect and the outbox is empty."""
        end = time.monotonic() + PATIENCE
        sql = """SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM change c
            WHERE NOT EXISTS (SELECT FROM effect e WHERE e.id = c.id))"""
        while await self._ask(sql):
            await self._replace_dead()
            assert time.monotonic() < end, await self._story()
            await asyncio.sleep(0.2)

    async def _story(self) -> str:
        tables = ("outbox", "outbox_dead", "outbox_lease", "outbox_relay")
        parts = [f"seed {self.history.seed}: not finished within {PATIENCE:g} s"]
        for table in tables:
            rows = await run_sql(self.database, f"SELECT * FROM {table} LIMIT 8")
            parts += [table, *(str(dict(row))[:400] for row in rows)]
        sql = "SELECT id FROM change c WHERE id NOT IN (SELECT id FROM effect) LIMIT 20"
        parts.append(f"without effect: {[row[0] for row in await run_sql(self.database, sql)]}")
        for program in [*self.programs["relay"], *self.programs["worker"]]:
            parts.append(f"--- {program.name}\n{program.output()[-2000:]}")
        return "\n".join(parts)

    async def _close_the_books(self) -> None:
        committed = await run_sql(self.database, "SELECT id, account, number FROM change")
        truth = {row["id"] for row in committed}
        said_so, denied = self.history.ids("acknowledged"), self.history.ids("abandoned")
        assert said_so <= truth, "what the writers were told is committed, is"
        assert not denied & truth, "what the writers were told is not committed, is not"
        for one in truth - said_so:
            self.history.acknowledged(one)
        for one in self.history.ids("attempted") - truth - denied:
            self.history.abandoned(one)

        stored = await _all(self.bus.transport, LEDGER)
        for each in stored:
            self.history.stored(each["id"], key=each["subject"])
        effects = await run_sql(
            self.database, "SELECT id, account, number FROM effect ORDER BY place"
        )
        for row in effects:
            self.history.effect(row["id"], consumer=DURABLE, key=row["account"])
        self.history.check(consumers=[DURABLE], exactly_once=True, ordered=True)

        # Numbers leave no gap among what committed: each key's events are 1, 2, 3, …
        numbers = await run_sql(self.database, "SELECT id, number FROM account")
        expected = {row["id"]: list(range(1, row["number"] + 1)) for row in numbers}
        _equal([(e["subject"], e["data"]["number"]) for e in stored], expected)
        _equal([(row["account"], row["number"]) for row in effects], expected)
        await self._look_for_leftovers(truth)

    async def _look_for_leftovers(self, truth: set[str]) -> None:
        assert not await _all(self.bus.transport, DEAD_LETTERS), "no consumer gave up"
        assert await self._ask("SELECT count(*) FROM outbox_dead") == 0, "no relay gave up"
        # What was killed just before the end holds its leases still; nobody has asked for them.
        stopped = [str(relay.pid) for relay in self.programs["relay"]]
        for table in ("outbox_lease", "outbox_relay"):
            left = f"SELECT count(*) FROM {table} WHERE split_part(owner, ':', 2) = ANY ($1)"
            assert await self._ask(left, stopped) == 0, "what is stopped hands back"
        archived = await run_sql(self.database, "SELECT id FROM outbox_archive")
        assert sorted(row[0] for row in archived) == (sorted(truth) if self.archive else [])
        marks = await run_sql(self.database, "SELECT message_id FROM inbox")
        assert sorted(row[0] for row in marks) == sorted(truth)
        self.figures["overtaken"] = await self._ask(OVERTAKEN)
        # So many as said, or the check would be of nothing.
        assert len(truth) >= self.changes
        assert self.figures["overtaken"] > 0, "transactions that committed late were overtaken"
        assert self.figures["writer died in a transaction"] > 0
        assert self.history.ids("abandoned"), "transactions were rolled back"

    def summary(self) -> str:
        """One line with what happened."""
        facts = Counter(fact.kind for fact in self.history.facts())
        logs = sorted(self.folder.glob("*.log"))
        output = "".join(log.read_text(errors="replace") for log in logs)
        handled = len(self.history.ids("handled"))
        counts = {
            "attempted": facts["attempted"],
            "committed": facts["acknowledged"],
            "rolled back": facts["abandoned"],
            "outcome unknown, but committed": output.count("unknown committed"),
            "outcome unknown and rolled back": output.count("unknown rolled back"),
            "stored": facts["stored"],
            "handled": handled,
            "again": facts["handled"] - handled,
            "effects": facts["effect"],
            "leases lost": output.count("away for longer than its lease"),
        }
        shown = ", ".join(f"{n} {name}" for name, n in {**counts, **self.figures}.items())
        seconds = time.monotonic() - self._begun
        return f"seed {self.history.seed}: {shown}; {seconds:.0f} s"


def _differ(one: str, other: str) -> bool:
    """Whether two faults do not strike the same process."""
    return one.split(maxsplit=1)[0] != other.split(maxsplit=1)[0]


def _equal(actual: list[tuple[str, int]], expected: dict[str, list[int]]) -> None:
    found: dict[str, list[int]] = {key: [] for key in expected}
    for key, number in actual:
        found[key].append(number)
    for key, numbers in expected.items():
        assert found[key] == numbers, key


async def _all(transport: Any, stream: str) -> list[dict[str, Any]]:
    """Return the envelopes of a stream in its order."""
    found: list[dict[str, Any]] = []
    after = 0
    while page := await transport.browse(stream, after=after, limit=500):
        found += [json.loads(each.data) for each in page]
        after = page[-1].sequence
    return found
