"""Workers in processes of their own on a real server: stopped, poisoned, and mended."""

import asyncio
import json
import signal
import sys
import time

import pytest
from nats_ledger import DEAD, DURABLE, LEDGER, Booked, SqliteInbox, Worker, make_bus, specs

from common.events.core import Outgoing
from common.testing import ManagedProcess

COMMAND = "import sys; from common.events.core._command import main; sys.exit(main(sys.argv[1:]))"
ACK_WAIT = 90.0  # in the tests in which nobody may wait for it
AT_ONCE = 45.0  # however busy the machine is


class Bank:
    """What the tests see of the service: its bus to publish, its workers, its effects."""

    def __init__(self, bus, url, folder, stack):
        self.bus = bus
        self.url = url
        self.folder = folder
        self.inbox = SqliteInbox(folder / "effects.db")
        self._stack = stack

    async def book(self, moods):
        events = [Booked(account=f"a{n % 5}", number=n, mood=m) for n, m in enumerate(moods)]
        outgoing = [self.bus.encode(each, id=str(each.number)) for each in events]
        await self.bus.transport.publish_many(outgoing)

    async def worker(self, **options) -> Worker:
        options = {"ack_wait": ACK_WAIT, "announce": True, **options}
        worker = Worker(0, self.folder, servers=[self.url], **options)
        self._stack.append(worker)
        await worker.start()
        return worker

    def handled(self) -> list[int]:
        """Numbers of the messages with effects, in the order of numbers."""
        return sorted(int(name) for _, name, _ in self.inbox.effects())

    async def letters(self):
        return await self.bus.transport.browse(DEAD, limit=1_000)

    async def until(self, condition, seconds=60.0):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    async def command(self, *arguments, seconds=60.0) -> str:
        """Run ``common-events`` on this broker; return what it printed."""
        async with self.running(*arguments) as process:
            code = await process.wait(seconds)
            assert code == 0, process.output()
            return process.output()

    def running(self, *arguments) -> ManagedProcess:
        file = self.folder / "url"
        file.write_text(self.url)
        broker = ("--transport", "nats", "--url-file", str(file))
        return ManagedProcess(sys.executable, "-c", COMMAND, *arguments, *broker)


@pytest.fixture
async def bank(nats_url, tmp_path):
    stack: list[Worker] = []
    async with make_bus([nats_url]) as bus:
        await bus.transport.declare(specs(1), mode="create")
        yield Bank(bus, nats_url, tmp_path, stack)
        for worker in stack:
            await worker.close()


# SIGTERM


@pytest.mark.parametrize("per_key", [False, True], ids=["shared", "per key"])
async def test_a_stopped_worker_finishes_what_it_handles_and_hands_back_the_rest(bank, per_key):
    await bank.book(["slow"] * 60)
    options = {"per_key": per_key, "concurrency": 4, "max_outstanding": 40}
    stopped = await bank.worker(**options)
    await bank.until(lambda: len(stopped.lines("finished")) >= 2)
    since = time.monotonic()
    assert await stopped.stop(grace=60) == 0, stopped.output()
    started, finished = stopped.lines("started"), stopped.lines("finished")
    assert 2 <= len(started) < 40, "there is a rest to hand back"
    assert sorted(started) == sorted(finished), "what it had begun it has finished"
    assert bank.handled() == sorted(finished)

    following = await bank.worker(**options, mended=True)
    await bank.until(lambda: len(bank.handled()) == 60, AT_ONCE)
    assert time.monotonic() - since < ACK_WAIT / 2, "nothing waited for ack_wait"
    assert bank.handled() == list(range(60))
    assert not {*following.lines("started")} & {*finished}, "and its acknowledgements arrived"
    if per_key:
        accounts = [[n for n in following.lines("started") if n % 5 == key] for key in range(5)]
        assert all(numbers == sorted(numbers) for numbers in accounts)
    assert not await bank.letters()


async def test_handlers_that_do_not_end_in_time_are_cancelled_and_handed_back(bank):
    await bank.book(["good"] * 10 + ["stuck"] * 20)
    options = {"concurrency": 4, "max_outstanding": 20}
    stopped = await bank.worker(**options, drain=0.5)
    await bank.until(lambda: len(stopped.lines("finished")) == 10)
    await bank.until(lambda: len(stopped.lines("started")) == 14)
    since = time.monotonic()
    stopped.send_signal(signal.SIGTERM)
    assert await stopped.wait(60) == 0, stopped.output()
    await bank.worker(**options, mended=True)
    await bank.until(lambda: len(bank.handled()) == 30, AT_ONCE)
    assert time.monotonic() - since < ACK_WAIT / 2, "nothing waited for ack_wait"
    assert bank.handled() == list(range(30))
    assert not await bank.letters(), "it was no fault of the messages"


# Dead letters


@pytest.mark.parametrize("per_key", [False, True], ids=["shared", "per key"])
async def test_a_message_that_ends_the_process_becomes_a_dead_letter(bank, per_key):
    await bank.book(["good"] * 5 + ["poison"] + ["good"] * 5)
    options = {"per_key": per_key, "attempts": 3, "ack_wait": 4.0, "max_outstanding": 8}
    worker = await bank.worker(**options)
    ends = 0
    async with asyncio.timeout(100):
        while not (letters := await bank.letters()) or len(bank.handled()) + len(letters) < 11:
            if not worker.running:
                assert worker.returncode == 9, worker.output()
                ends += 1
                await worker.restart()
            await asyncio.sleep(0.05)
    assert ends == 3, "as often as it may be tried"
    (poison,) = [each for each in letters if json.loads(each.data)["id"] == "5"]
    assert poison.subject == "dead.evt.ledger.booked"
    assert poison.headers["Dead-Letter-Reason"] == "attempts"
    assert poison.headers["Dead-Letter-Consumer"] == DURABLE
    await worker.stop()

    # What was in hand each time shares its fate, but is not lost.
    mended = await bank.worker(**options, mended=True)
    await bank.command("dlq", "replay", "--all")
    await bank.until(lambda: len(bank.handled()) == 11)
    assert bank.handled() == list(range(11))
    assert not await bank.letters()
    assert mended.running


async def test_what_cannot_be_read_becomes_a_dead_letter_with_the_reason(bank):
    good = bank.bus.encode(Booked(account="a", number=1), id="1")
    envelope = json.loads(good.data)
    newer = {**envelope, "dataschema": envelope["dataschema"].rpartition("/")[0] + "/99"}
    bodies = {
        b"\xff\xfe{": "malformed",
        json.dumps({**envelope, "type": "ledger.burnt"}).encode(): "malformed",  # not the subject's
        json.dumps({**envelope, "data": {"number": "x"}}).encode(): "invalid_data",
        json.dumps(newer).encode(): "unknown_version",
    }
    for number, data in enumerate(bodies):
        raw = Outgoing(good.subject, data, id=f"unreadable-{number}", stream=LEDGER)
        await bank.bus.transport.publish(raw)
    await bank.bus.transport.publish(good)
    worker = await bank.worker()
    async with asyncio.timeout(60):
        while len(letters := await bank.letters()) < 4 or not bank.handled():
            assert worker.running, worker.output()
            await asyncio.sleep(0.05)
    assert {each.data: each.headers["Dead-Letter-Reason"] for each in letters} == bodies
    assert all(each.headers["Dead-Letter-Attempts"] == "1" for each in letters)
    assert bank.handled() == [1]


async def test_replayed_dead_letters_are_handled_once_though_the_replay_was_killed(bank):
    count = 400
    await bank.book(["good"] * 50 + ["broken"] * count)
    worker = await bank.worker(attempts=1, concurrency=32, max_outstanding=128)
    async with asyncio.timeout(90):
        while len(await bank.letters()) < count or len(bank.handled()) < 50:
            assert worker.running, worker.output()
            await asyncio.sleep(0.1)
    assert await worker.stop(grace=60) == 0
    assert f"{count}" in await bank.command("dlq", "list")

    async def last() -> int:
        info = await bank.bus.transport.api.request(f"STREAM.INFO.{LEDGER}")
        return info["state"]["last_seq"]

    async with bank.running("dlq", "replay", "--all") as killed, asyncio.timeout(60):
        while await last() < 50 + count + 10 and killed.running:
            await asyncio.sleep(0.001)
        killed.kill()
    await bank.command("dlq", "replay", "--all")
    assert not await bank.letters()
    await bank.worker(attempts=1, concurrency=32, max_outstanding=128, mended=True)
    await bank.until(lambda: len(bank.handled()) == 50 + count)
    assert bank.handled() == list(range(50 + count))
    assert not await bank.letters()
