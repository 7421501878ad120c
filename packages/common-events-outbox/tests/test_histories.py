"""Histories of faults, drawn from a seed, against what the outbox promises.

Writers change accounts and tell of each change; relays publish; workers book each event once.
All of them are processes, and PostgreSQL, NATS and they themselves are killed and paused. Writers
also roll back on purpose, hold transactions open while others commit, and die in their midst.
Then the books must balance: what committed was published and had its effect exactly once, what
did not was never seen, and each account's events are in the order of its changes.
"""

import sys

import pytest

pytest.importorskip("common.events.nats")  # what the processes publish to

from outbox_history import Play, Program

from common.testing import ManagedProcess

FEW = (
    "postgres cut off",
    "postgres killed",
    "postgres paused",
    "nats killed",
    "relay killed",
    "relay paused",
    "worker died before ack",
    "writer killed",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_a_short_history_keeps_the_promises(tmp_path, capsys, seed):
    play = Play(seed, tmp_path, changes=1_000, writers=2, keys=30, tasks=4, pause=0.02, hold=1.0)
    await show(play, capsys, gap=0.8, once=FEW)


@pytest.mark.chaos
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(100, 106))
async def test_a_long_history_keeps_the_promises(tmp_path, capsys, seed):
    play = Play(seed, tmp_path, changes=20_000, relays=3, workers=3, archive=seed % 2 == 1)
    await show(play, capsys, gap=4.0)


async def show(play, capsys, **options):
    try:
        async with play:
            await play.run(**options)
    finally:
        with capsys.disabled():
            sys.stderr.write(f"\n{play.summary()}\n")


async def test_a_process_that_ends_by_itself_fails_a_history(tmp_path):
    async with Program("writer", "writer 1", tmp_path / "log", {}) as writer:
        await writer.wait(60)  # it lacks its arguments
        with pytest.raises(AssertionError, match=r"writer 1 ended by itself with 1:[^$]*TypeError"):
            writer.inspect()


async def test_a_process_that_was_killed_here_does_not(tmp_path):
    class Sleeper(Program):
        def __init__(self) -> None:
            super().__init__("writer", "writer 1", tmp_path / "log", {})
            self._command = [sys.executable, "-c", "import time; time.sleep(3600)"]

    async with Sleeper() as one, Sleeper() as other:
        assert one.inspect() is None
        one.kill()
        assert one.inspect() == -9
        ManagedProcess.kill(other)  # as the system does that is out of memory
        with pytest.raises(AssertionError, match="ended by itself with -9"):
            other.inspect()
