"""A worker in a real process gets real signals."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("drain_worker.py")


class Worker:
    def __init__(self, process):
        self.process = process
        self.lines: list[str] = []

    async def lines_with(self, *wanted):
        """Read until these lines have come; fail when the process ends before."""
        async with asyncio.timeout(60):
            while not set(wanted) <= set(self.lines):
                line = (await self.process.stdout.readline()).decode()
                assert line, self.lines
                self.lines.append(line.strip())

    async def end(self):
        async with asyncio.timeout(60):
            rest = await self.process.stdout.read()
            self.lines += rest.decode().splitlines()
            return await self.process.wait()

    def send(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def numbers(self, what):
        return [int(line.split()[1]) for line in self.lines if line.startswith(what + " ")]

    def number(self, what):
        (value,) = self.numbers(what)
        return value


@pytest.fixture
async def start():
    workers = []

    async def start(how, drain):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(WORKER), how, str(drain)), stdout=asyncio.subprocess.PIPE
        )
        workers.append(Worker(process))
        others = () if "same" in how else ("started 1",)
        await workers[-1].lines_with("published", "started 0", *others)
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.returncode is None:
            worker.process.kill()
            await worker.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["good", "good per-key"])
async def test_what_is_under_way_finishes_and_the_rest_is_handed_back(start, how, number):
    worker = await start(how, 30)
    worker.send(number)
    assert await worker.end() == 0
    assert sorted(worker.numbers("finished")) == [0, 1]
    assert worker.numbers("started") == [0, 1]
    # Handed back at once: nothing waits for ack_wait.
    assert (worker.number("left"), worker.number("late")) == (8, 0)
    assert worker.lines[-1] == "stopped"


async def test_of_a_key_under_way_nothing_more_starts(start):
    worker = await start("good per-key same", 30)
    worker.send()
    assert await worker.end() == 0
    assert worker.numbers("started") == worker.numbers("finished") == [0]
    assert (worker.number("left"), worker.number("late")) == (9, 0)


async def test_handlers_that_do_not_finish_in_time_are_cancelled_and_handed_back(start):
    worker = await start("stuck", 0.2)
    worker.send()
    assert await worker.end() == 0
    assert sorted(worker.numbers("cancelled")) == [0, 1]
    assert (worker.number("left"), worker.number("late")) == (10, 0)
    assert worker.number("tasks") <= 0


async def test_a_second_signal_cancels_at_once(start):
    worker = await start("stuck", 600)
    worker.send()
    await worker.lines_with("signal: the bus stops")
    worker.send(signal.SIGINT)
    assert await worker.end() == 0
    assert sorted(worker.numbers("cancelled")) == [0, 1]
    assert worker.number("left") == 10


async def test_a_handler_that_ignores_its_cancellation_does_not_keep_the_bus(start):
    worker = await start("ignores", 0.1)
    worker.send()
    assert await worker.end() == 0
    # It is told what to do, and the messages are handed back all the same.
    assert worker.numbers("ignored")
    assert (worker.number("left"), worker.number("late")) == (10, 0)
    before = worker.lines[: worker.lines.index("stopped")]
    assert not any(line.startswith("finished") for line in before)


async def test_a_third_signal_ends_the_process(start):
    worker = await start("ignores patient", 600)
    worker.send()
    await worker.lines_with("signal: the bus stops")
    worker.send()
    await worker.lines_with("second signal: handlers are cancelled")
    worker.send()
    assert await worker.end() == -signal.SIGTERM
