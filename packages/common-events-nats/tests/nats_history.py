"""A fault history: a publisher, workers in processes of their own, and what happens to them."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from nats_ledger import DEAD, DURABLE, LEDGER, Booked, SqliteInbox, Worker, make_bus

from common.errors import MessageBusError
from common.events.core import EventBus
from common.events.core.testing import History
from common.events.nats._transport import NatsTransport
from common.testing import FaultProxy, NatsCluster, NatsServer

Fault = Callable[[], Awaitable[None]]


class Play:
    """One history, from its seed. Everything that is drawn is drawn from that.

    Args:
        seed: The seed.
        folder: For the journal, and the database with the effects.
        nodes: Servers: one, or a cluster of three.
        per_key: Whether the workers keep the order of a key.
        workers: Processes that handle messages.
        accounts: Keys; each has a publisher that waits for its acknowledgements.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        nodes: int = 1,
        per_key: bool = True,
        workers: int = 2,
        accounts: int = 8,
    ) -> None:
        self.history = History(seed=seed, journal=folder / "journal")
        self.random = self.history.random
        self.figures: Counter[str] = Counter()
        self.folder = folder
        self.per_key = per_key
        self.nodes = nodes
        self.accounts = accounts
        self.wanted = workers
        self.workers: list[Worker] = []
        self.inbox = SqliteInbox(folder / "effects.db")
        self.busiest = 0.0
        self._stack = AsyncExitStack()
        self._cluster: NatsCluster | None = None
        self._started = 0
        self._begun = time.monotonic()
        self._enough = asyncio.Event()
        self._moods: dict[str, str] = {}
        self._decks: dict[str, list[str]] = {}

    # Beginning and end

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            if self.nodes == 1:
                self.servers = [await stack.enter_async_context(NatsServer())]
            else:
                self._cluster = await stack.enter_async_context(NatsCluster(self.nodes))
                self.servers = self._cluster.servers
            self.near = [await stack.enter_async_context(FaultProxy(s.url)) for s in self.servers]
            self.far = [await stack.enter_async_context(FaultProxy(s.url)) for s in self.servers]
            self.bus = make_bus(self._urls(self.near), replicas=self.nodes)
            await stack.enter_async_context(self.bus)
            watching = make_bus([s.url for s in self.servers], replicas=self.nodes)
            self.watching: EventBus = await stack.enter_async_context(watching)
            for _ in range(self.wanted):
                await self._hire()
            await asyncio.gather(*(self._ready(worker) for worker in self.workers))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _urls(self, proxies: list[FaultProxy]) -> list[str]:
        return [p.url(s.url) for p, s in zip(proxies, self.servers, strict=True)]

    async def _hire(self) -> Worker:
        worker = Worker(
            self._started,
            self.folder,
            servers=self._urls(self.far),
            replicas=self.nodes,
            per_key=self.per_key,
        )
        self._started += 1
        await self._stack.enter_async_context(worker)
        self.workers.append(worker)
        return worker

    async def _ready(self, worker: Worker) -> None:
        """Wait until it takes messages; start it anew when the servers were not there for it."""
        async with asyncio.timeout(120):
            while "\nready\n" not in f"\n{worker.output()}":
                if not worker.running:
                    last = worker.output().rstrip().rpartition("\n")[2]
                    assert last.startswith(_NOT_THERE), worker.output()
                    self.figures["started in vain"] += 1
                    await worker.restart()
                await asyncio.sleep(0.05)

    # Publishing

    async def publish(self, account: str) -> None:
        """Publish to one account, one after another, until it is enough."""
        chance = random.Random(f"{self.history.seed} {account}")
        number = 0
        while not self._enough.is_set():
            if chance.random() < 0.1:
                batch = [self._booked(account, number + n, chance) for n in range(4)]
                number += 4
                await self._publish_many(batch)
            else:
                await self._publish_one(self._booked(account, number, chance), chance)
                number += 1
            await asyncio.sleep(chance.expovariate(1 / 0.02))

    def _booked(self, account: str, number: int, chance: random.Random) -> tuple[str, Booked]:
        mood = "good"
        if (drawn := chance.random()) < 0.04:
            mood = "shaky"
        elif drawn < 0.05:
            mood = "refused"
        name = f"{account}-{number}"
        self._moods[name] = mood
        return name, Booked(account=account, number=number, mood=mood)

    async def _publish_one(self, one: tuple[str, Booked], chance: random.Random) -> None:
        name, event = one
        self.figures["published"] += 1
        self.history.attempted(name, key=event.account)
        timeout = 0.3 if chance.random() < 0.05 else None
        try:
            await self.bus.publish(event, id=name, timeout=timeout)
        except MessageBusError:
            self.figures["failed"] += 1
        else:
            self.history.acknowledged(name)

    async def _publish_many(self, batch: list[tuple[str, Booked]]) -> None:
        outgoing = []
        for name, event in batch:
            self.figures["published"] += 1
            self.history.attempted(name, key=event.account)
            outgoing.append(self.bus.encode(event, id=name))
        for one, result in zip(
            outgoing, await self.bus.transport.publish_many(outgoing), strict=True
        ):
            if isinstance(result, MessageBusError):
                self.figures["failed"] += 1
            else:
                self.history.acknowledged(one.id)

    # Faults

    def faults(self) -> dict[str, Fault]:
        return {
            "server killed": self.kill_server,
            "server paused": self.pause_server,
            "server restarted": self.restart_server,
            "workers cut off": lambda: self.cut(self.far),
            "publisher cut off": lambda: self.cut(self.near),
            "worker killed": self.kill_worker,
            "worker paused": self.pause_worker,
            "worker stopped": self.stop_worker,
        }

    async def _victim(self) -> NatsServer:
        if self._cluster is None:
            return self.servers[0]
        if self.random.random() < 0.6:
            return await self._cluster.leader(LEDGER, timeout=30)
        return self.random.choice(self.servers)

    async def _recovered(self) -> None:
        if self._cluster is not None:
            await self._cluster.wait_ready(60)

    async def kill_server(self) -> None:
        server, pause = await self._victim(), self.random.uniform(0, 1.5)
        server.kill()
        await asyncio.sleep(pause)
        await server.restart()
        await self._recovered()

    async def pause_server(self) -> None:
        server, pause = await self._victim(), self.random.uniform(0.2, 4)
        server.pause()
        await asyncio.sleep(pause)
        server.resume()
        await self._recovered()

    async def restart_server(self) -> None:
        server = await self._victim()
        await server.restart()
        await self._recovered()

    async def cut(self, proxies: list[FaultProxy]) -> None:
        how, pause = self.random.choice(_CUTS), self.random.uniform(0, 1.5)
        some = proxies if self.random.random() < 0.5 else [self.random.choice(proxies)]
        for proxy in some:
            match how:
                case "reset" | "close":
                    proxy.cut(reset=how == "reset")
                case "refuse":
                    proxy.refuse()
                    proxy.cut()
                case "stall":
                    proxy.stall()
                case direction:
                    proxy.drop(direction=direction)
        await asyncio.sleep(pause)
        for proxy in some:
            proxy.heal()

    async def _worker(self) -> Worker:
        """Return a worker, more often than not the one that has most to do."""
        before = {worker: worker.cpu() for worker in self.workers}
        await asyncio.sleep(0.3)
        used = {worker: worker.cpu() - seconds for worker, seconds in before.items()}
        if self.random.random() < 0.7:
            return max(used, key=lambda worker: used[worker])
        return self.random.choice(self.workers)

    async def kill_worker(self) -> None:
        worker = await self._worker()
        worker.kill()
        await self._replace(worker)

    async def stop_worker(self) -> None:
        worker = await self._worker()
        assert await worker.stop(grace=60) == 0, worker.output()
        await self._replace(worker)

    async def pause_worker(self) -> None:
        worker, pause = await self._worker(), self.random.uniform(0.2, 5)
        worker.pause()
        await asyncio.sleep(pause)
        worker.resume()

    async def _replace(self, worker: Worker) -> None:
        self.workers.remove(worker)
        await asyncio.sleep(self.random.uniform(0, 0.5))
        await self._ready(await self._hire())

    async def be_away(self) -> None:
        """Kill all servers for a while; what the workers cost meanwhile is measured."""
        self.figures["all servers killed"] += 1
        for server in self.servers:
            server.kill()
        await asyncio.sleep(0.7)  # what is in hand is handled, and what is cut is noticed
        busy = 1.0
        for _ in range(3):  # on a busy machine that takes longer
            before, started = [worker.cpu() for worker in self.workers], time.monotonic()
            await asyncio.sleep(1.5)
            seconds = time.monotonic() - started
            used = [worker.cpu() - b for worker, b in zip(self.workers, before, strict=True)]
            if (busy := min(busy, max(each / seconds for each in used))) < 0.3:
                break
        self.busiest = max(self.busiest, busy)
        await asyncio.gather(*(server.restart() for server in self.servers))
        await self._recovered()
        assert self.busiest < 0.3, f"without a server a worker keeps {self.busiest:.0%} of a core"

    async def strike(self, count: int) -> None:
        """Let so many faults happen, now and then two at once."""
        for _ in range(count):
            await asyncio.sleep(self.random.uniform(0.05, 0.6))
            drawn = [self._draw("worker" if self.random.random() < 0.5 else "server")]
            if self.random.random() < 0.3:
                drawn = [self._draw("server"), self._draw("worker")]
            self.figures.update(drawn)
            await asyncio.gather(*(self.faults()[name]() for name in drawn))

    def _draw(self, kind: str) -> str:
        """Return a fault of servers and connections, or of workers: each before any comes again."""
        deck = self._decks.setdefault(kind, [])
        if not deck:
            names = self.faults()
            deck += [name for name in names if name.startswith("worker ") == (kind == "worker")]
            self.random.shuffle(deck)
        return deck.pop()

    # The whole

    async def run(self, strikes: int, *, away: bool = True) -> None:
        """Publish while faults happen, let the service recover by itself, check everything.

        Args:
            strikes: How many faults.
            away: Kill all servers for a while, too.
        """
        names = [f"account{n}" for n in range(self.accounts)]
        publishing = [asyncio.create_task(self.publish(name)) for name in names]
        try:
            await self.strike(strikes)
            if away:
                await self.be_away()
            for fault in ("server killed", "workers cut off"):  # which these workers live through
                self.figures[fault] += 1
                await self.faults()[fault]()
        finally:
            self._enough.set()
            async with asyncio.timeout(120):
                await asyncio.gather(*publishing)
        await self._settle()
        await self._goes_on()
        info = await self._consumer()
        assert info["num_ack_pending"] == info["num_pending"] == 0, info
        self.figures["deliveries"] = info["delivered"]["consumer_seq"]
        self._check()

    async def _goes_on(self) -> None:
        """One that lived through it, alone, handles what comes."""
        last, *others = self.workers
        for worker in others:
            assert await worker.stop(grace=60) == 0, worker.output()
        self.workers = [last]
        chance = random.Random(0)
        for number in range(10):
            await self._publish_one(self._booked("last", number, chance), chance)
        await self._settle()
        assert await last.stop(grace=60) == 0, last.output()

    async def _settle(self, seconds: float = 150.0) -> None:
        """Wait until everything that is stored is handled or a dead letter."""
        end = time.monotonic() + seconds
        while True:
            left, why = {"?"}, ""
            try:
                info = await self._consumer()
                if info["num_ack_pending"] == info["num_pending"] == 0 or time.monotonic() > end:
                    await self._look()
                    left = self._left()
            except MessageBusError as error:
                why = str(error)
            if not left:
                return
            for worker in self.workers:
                assert worker.running, worker.output()
            if time.monotonic() > end:
                raise AssertionError(await self._story(left, why))
            await asyncio.sleep(0.1)

    async def _look(self) -> None:
        transport = self.watching.transport
        self.stored = await _all(transport, LEDGER)
        self.dead = await _all(transport, DEAD)

    def _left(self) -> set[str]:
        done = {name for _, name, _ in self.inbox.effects()} | {_id(each) for each in self.dead}
        return {_id(each) for each in self.stored} - done

    async def _story(self, left: set[str], why: str) -> str:
        info = await self._consumer()
        tails = "\n".join(f"--- {w.name}\n{w.output()[-3000:]}" for w in self.workers)
        return f"seed {self.history.seed}: left {sorted(left)[:20]} {why}\n{info}\n{tails}"

    async def _consumer(self) -> Any:
        transport = self.watching.transport
        assert isinstance(transport, NatsTransport)
        return await transport.api.request(f"CONSUMER.INFO.{LEDGER}.{DURABLE}")

    def _check(self) -> None:
        history = self.history
        for each in self.stored:
            history.stored(_id(each), key=json.loads(each.data)["subject"])
        for consumer, name, account in self.inbox.effects():
            history.effect(name, consumer=consumer, key=account)
        for each in self.dead:
            history.dead_lettered(_id(each), consumer=each.headers["Dead-Letter-Consumer"])
        history.check(consumers=[DURABLE], exactly_once=True, ordered=self.per_key)
        dead = {_id(each) for each in self.dead}
        stored = history.ids("stored")
        refused = {name for name, mood in self._moods.items() if mood == "refused"}
        assert dead == refused & stored, "the refused ones, and no others, are dead letters"
        assert len(dead) == len(self.dead), "each is a dead letter once"
        # So many as said, or the check would be of nothing.
        assert len(history.ids("effect")) > self.figures["published"] / 2 > 50

    def summary(self) -> str:
        """One line with what happened."""
        facts = Counter(fact.kind for fact in self.history.facts())
        counts = {
            "published": self.figures["published"],
            "acknowledged": facts["acknowledged"],
            "stored": facts["stored"],
            "deliveries": self.figures["deliveries"],
            "handled": len(self.history.ids("handled")),
            "again": facts["handled"] - len(self.history.ids("handled")),
            "effects": facts["effect"],
            "dead letters": facts["dead_lettered"],
        }
        faults = {
            name: self.figures[name]
            for name in [*self.faults(), "all servers killed", "started in vain"]
        }
        shown = ", ".join(f"{n} {name}" for name, n in {**counts, **faults}.items())
        return (
            f"seed {self.history.seed}, {self.nodes} node(s), "
            f"{'per key' if self.per_key else 'shared'}: {shown}; "
            f"CPU without servers {self.busiest:.0%}, {time.monotonic() - self._begun:.0f} s"
        )


_NOT_THERE = tuple(
    f"common.events.{name}"
    for name in ("nats._errors.NatsTimeout", "nats._errors.NoResponders", "core._errors.BrokerUn")
)
_CUTS = ("reset", "close", "refuse", "stall", "upstream", "downstream", "both")


async def _all(transport: Any, stream: str) -> list[Any]:
    found: list[Any] = []
    while True:
        after = found[-1].sequence if found else 0
        page = await transport.browse(stream, after=after, limit=500)
        if not page:
            return found
        found += page


def _id(message: Any) -> str:
    return str(json.loads(message.data)["id"])
