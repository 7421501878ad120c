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

from common.domain.calls import CallCompleted
from common.domain.transcripts import TranscriptProcessed
from common.events.core import Transport
from common.events.nats import NatsConfig, NatsTransport
from demo.client import CallsClient, Tally
from demo.spoiled import Spoiled, spoiled
from demo.stored import Broker, DeadLetters, Records, connected
from demo.system import System
from demo.workload import PlannedCall, Workload

CALLERS = 16
STALLED_SECONDS = 60.0  # no progress for so long means that something is lost
PLAIN_PROGRESS_SECONDS = 2.0
SHOWN = 10  # calls that were not processed, by their ids


@dataclass(frozen=True)
class Books:
    """What the client sent against what services and broker say."""

    tally: Tally
    created: int
    ended: int
    published: int
    waiting: int
    undeliverable: int
    processed: int
    announced: int
    reported: int
    duplicate_effects: int
    spoiled: Counter[str]
    dead_letters: Counter[str]
    unprocessed: list[str]
    seconds: float
    latencies: list[float]
    killed: bool

    @property
    def lost(self) -> int:
        """Ended calls that no transcript record was written for."""
        return self.ended - self.processed

    @property
    def balance(self) -> bool:
        """Whether every call was processed and reported, once, and what is bad a dead letter, once.

        A broker may get an event twice, when a relay dies before it has noted that it published.
        """
        made = self.tally.created
        return (
            made > 0
            and made == self.created == self.ended == self.tally.ended
            and made == self.processed == self.reported
            and made <= min(self.published, self.announced)
            and self.waiting == self.undeliverable == self.duplicate_effects == 0
            and self.spoiled == self.dead_letters
            and not self.unprocessed
            and not self.tally.refused
        )


async def drive(system: System, workload: Workload, *, console: Console) -> Books:
    """Make every call, kill services half way, and wait until all is processed and reported.

    Args:
        system: the running system.
        workload: the calls to make.
        console: where progress is shown.

    Raises:
        httpx.HTTPError: calls-api did not answer for a long time.
        MessageBusError: NATS did not.
        DatabaseError: PostgreSQL did not.
    """
    began = time.monotonic()
    bad = spoiled(workload.total)
    # trust_env: a proxy set for the outside world is of no use for a service on this machine.
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=30, trust_env=False) as http,
        NatsTransport(NatsConfig(servers=(SecretStr(system.nats_url),), name="demo")) as transport,
        connected(system.nats_url) as broker,
    ):
        client = CallsClient(http)
        letters = DeadLetters(transport)
        finished = asyncio.Event()
        view = asyncio.create_task(_show_progress(client, workload.total, console, finished))
        kill = asyncio.create_task(_kill_half_way(system, client, workload, console))
        spoil = asyncio.create_task(_spoil(transport, bad, client, workload))
        try:
            await _make_all(client, workload.calls)
            workload.read = True
            killed = await kill
            await spoil
            await _all_processed(client, letters, broker, bad)
            seconds = time.monotonic() - began
            finished.set()
            await view
        finally:
            tasks = (view, kill, spoil)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            # Why nothing answers any more, if it is this.
            if kill.done() and not kill.cancelled() and kill.exception() is not None:
                await kill
        summary = await client.summary()
        made = await client.calls()
        processed, records = await Records(system.postgres_url).count()
        unprocessed = [str(call["call_id"]) for call in made if not call["processed_at"]]
        return Books(
            tally=client.tally,
            created=summary["created"],
            ended=summary["ended"],
            published=await broker.stored(CallCompleted) - len(bad),
            waiting=summary["waiting"],
            undeliverable=summary["undeliverable"],
            processed=processed,
            announced=await broker.stored(TranscriptProcessed),
            reported=summary["processed"],
            duplicate_effects=records - processed,
            spoiled=Counter(each.reason for each in bad),
            dead_letters=await letters.count(),
            unprocessed=unprocessed[:SHOWN],
            seconds=seconds,
            latencies=[
                _seconds_between(call["ended_at"], call["processed_at"])
                for call in made
                if call["ended_at"] and call["processed_at"]
            ],
            killed=killed,
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


async def _kill_half_way(
    system: System, client: CallsClient, workload: Workload, console: Console
) -> bool:
    """Kill and replace services; whether that was before the last call was made."""
    if not await _reached(1 / 2, client, workload):
        return False
    victims = system.api, system.relay, system.worker
    for each in victims:
        each.kill()
    names = "calls-api, calls-api-relay and post-processing"
    console.print(f"half way: killed {names}, starting replacements")
    await asyncio.gather(*(each.start() for each in victims))
    console.print("the replacements run")
    return True


async def _spoil(
    transport: Transport, bad: list[Spoiled], client: CallsClient, workload: Workload
) -> None:
    """Publish the bad messages between the good ones, from the first call to the last."""
    for number, message in enumerate(bad):
        await _reached(number / len(bad), client, workload)
        await transport.publish(message.outgoing())


async def _all_processed(
    client: CallsClient, letters: DeadLetters, broker: Broker, bad: list[Spoiled]
) -> None:
    """Wait until nothing is left to process, or nothing has moved for a long time."""
    seen = None
    moved = time.monotonic()
    ended = client.tally.ended
    while True:
        summary = await client.summary()
        now = reported, waiting, dead, announced = (
            summary["processed"],
            summary["waiting"],
            (await letters.count()).total(),
            await broker.stored(TranscriptProcessed),
        )
        if min(reported, announced) >= ended and waiting == 0 and dead >= len(bad):
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
