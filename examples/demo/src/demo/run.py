"""Drives a workload through the system and balances the books."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.events.core import Transport
from common.events.nats import NatsConfig, NatsTransport
from demo.client import CallsClient, Tally
from demo.spoiled import DeadLetters, Spoiled, spoiled
from demo.system import System
from demo.workload import PlannedCall, Workload

CALLERS = 16
STALLED_SECONDS = 30.0  # no progress for so long means that something is lost
PLAIN_PROGRESS_SECONDS = 2.0
SHOWN = 10  # calls that were not processed, by their ids


@dataclass(frozen=True)
class Books:
    """What the client sent against what the services say."""

    tally: Tally
    created: int
    ended: int
    published: int
    processed: int
    duplicate_effects: int
    spoiled: Counter[str]
    dead_letters: Counter[str]
    unprocessed: list[str]
    seconds: float
    latencies: list[float]
    worker_killed: bool

    @property
    def lost(self) -> int:
        """Ended calls that no transcript record was written for."""
        return self.ended - self.processed

    @property
    def balance(self) -> bool:
        """Whether every call was processed, once, and all that is bad is a dead letter, once."""
        made = self.tally.created
        return (
            made > 0
            and made == self.created == self.ended == self.tally.ended
            and made == self.published == self.processed
            and self.duplicate_effects == 0
            and self.spoiled == self.dead_letters
            and not self.unprocessed
            and not self.tally.refused
        )


async def drive(system: System, workload: Workload, *, console: Console) -> Books:
    """Make every call, kill the worker half way, and wait until all is processed.

    Args:
        system: the running system.
        workload: the calls to make.
        console: where progress is shown.

    Raises:
        httpx.HTTPError: calls-api did not answer for a long time.
        MessageBusError: NATS did not.
    """
    began = time.monotonic()
    bad = spoiled(workload.total)
    # trust_env: a proxy set for the outside world is of no use for a service on this machine.
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=30, trust_env=False) as http,
        NatsTransport(NatsConfig(servers=(SecretStr(system.nats_url),), name="demo")) as transport,
    ):
        client = CallsClient(http)
        letters = DeadLetters(transport)
        finished = asyncio.Event()
        view = asyncio.create_task(_show_progress(client, workload.total, console, finished))
        kill = asyncio.create_task(_kill_worker_half_way(system, client, workload))
        spoil = asyncio.create_task(_spoil(transport, bad, client, workload))
        try:
            await _make_all(client, workload.calls)
            workload.read = True
            worker_killed = await kill
            await spoil
            await _all_processed(client, letters, bad)
            seconds = time.monotonic() - began
            finished.set()
            await view
        finally:
            tasks = (view, kill, spoil)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        summary = await client.summary()
        calls = await client.calls()
        unprocessed = [str(call["call_id"]) for call in calls if not call["processed_at"]]
        return Books(
            tally=client.tally,
            created=summary["created"],
            ended=summary["ended"],
            published=summary["published"],
            processed=summary["processed"],
            duplicate_effects=summary["duplicate_effects"],
            spoiled=Counter(each.reason for each in bad),
            dead_letters=await letters.count(),
            unprocessed=unprocessed[:SHOWN],
            seconds=seconds,
            latencies=[
                _seconds_between(call["ended_at"], call["processed_at"])
                for call in calls
                if call["ended_at"] and call["processed_at"]
            ],
            worker_killed=worker_killed,
        )


async def _make_all(client: CallsClient, calls: Iterator[PlannedCall]) -> None:
    callers = [asyncio.create_task(_caller(client, calls)) for _ in range(CALLERS)]
    try:
        await asyncio.gather(*callers)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)


async def _caller(client: CallsClient, source: Iterator[PlannedCall]) -> None:
    for planned in source:
        await client.make(planned)


async def _reached(part: float, client: CallsClient, workload: Workload) -> bool:
    """Wait for a part of the calls to end; whether that was before the last one was made."""
    while client.tally.ended + len(workload.bad) < workload.total * part:
        if workload.read:
            return False
        await asyncio.sleep(0.02)
    return True


async def _kill_worker_half_way(system: System, client: CallsClient, workload: Workload) -> bool:
    """Kill and restart the worker; whether that happened before the last call was made."""
    if not await _reached(1 / 2, client, workload):
        return False
    system.worker.kill()
    await system.worker.start()
    return True


async def _spoil(
    transport: Transport, bad: list[Spoiled], client: CallsClient, workload: Workload
) -> None:
    """Publish the bad messages between the good ones, from the first call to the last."""
    for number, message in enumerate(bad):
        await _reached(number / len(bad), client, workload)
        await transport.publish(message.outgoing())


async def _all_processed(client: CallsClient, letters: DeadLetters, bad: list[Spoiled]) -> None:
    """Wait until nothing is left to process, or nothing has moved for a long time."""
    seen = -1, -1
    moved = time.monotonic()
    while True:
        summary = await client.summary()
        # A publish whose answer was lost is marked only at the publisher's next sweep.
        processed = min(summary["processed"], summary["published"])
        now = processed, (await letters.count()).total()
        if processed >= client.tally.ended and now[1] >= len(bad):
            return
        if now != seen:
            seen, moved = now, time.monotonic()
        elif time.monotonic() - moved > STALLED_SECONDS:
            return
        await asyncio.sleep(0.1)


async def _show_progress(
    client: CallsClient, total: int, console: Console, finished: asyncio.Event
) -> None:
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        bars = {
            name: progress.add_task(name, total=total) for name in ("created", "ended", "processed")
        }
        said = time.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), 0.2)
            try:
                summary = await client.summary()
            except httpx.HTTPError:  # the callers wait for it; so does the display
                if finished.is_set():
                    return
                continue
            for name, bar in bars.items():
                progress.update(bar, completed=summary[name])
            if not console.is_terminal and time.monotonic() - said > PLAIN_PROGRESS_SECONDS:
                said = time.monotonic()
                console.print(
                    f"{summary['created']} created, {summary['processed']} processed of {total}"
                )
            if finished.is_set():
                return


def _seconds_between(earlier: str | None, later: str | None) -> float:
    if earlier is None or later is None:
        return 0.0
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
