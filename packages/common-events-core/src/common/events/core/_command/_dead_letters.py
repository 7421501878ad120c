"""``common-events dlq``: what nobody could handle, counted, shown, replayed, discarded."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from common.errors import MessageBusError
from common.events.core._command._letters import Filter, Letter, pages
from common.events.core._command._progress import Progress
from common.events.core._command._say import counted, say, table, warn
from common.events.core._dead_letter import REPLAY_CONSUMER
from common.events.core._declarations import DEAD_LETTERS
from common.events.core._signals import on_signals
from common.events.core._transport import Outgoing, Receipt, Transport

Treat: TypeAlias = Callable[[Sequence[Letter]], Awaitable[list[Exception | None]]]
"""Does something to dead letters; returns for each what went wrong."""

INTERRUPTED = 130
EVERYONE = "*"
"""In place of a durable name: every subscription handles what is replayed."""


@dataclass(slots=True)
class _Group:
    count: int
    oldest: datetime
    newest: datetime


async def show_counts(transport: Transport, wanted: Filter) -> int:
    """Print how many dead letters there are by subject, consumer and reason."""
    async with transport:
        groups, _ = await _count(transport, wanted)
    _say_counts(groups, wanted)
    return 0


async def show_each(transport: Transport, wanted: Filter) -> int:
    """Print a line for each dead letter."""
    any_found = False
    async with transport, aclosing(pages(transport, wanted)) as found:
        async for page in found:
            any_found = True
            for each in page:
                say(
                    f"{each.sequence:>6}  {_time(each.message.timestamp)}  {each.subject}  "
                    f"{each.consumer or '?'}  {each.reason} after {each.says('attempts')}: "
                    f"{each.says('error')}"
                )
    if not any_found:
        warn(_none(wanted))  # whoever reads the lines gets none
    return 0


async def replay(
    transport: Transport, wanted: Filter, *, dry_run: bool, to: str | None = None
) -> int:
    """Publish messages again to where they were published first.

    Body and headers are the original ones, so the envelope's id is, too: an inbox that has seen
    the message handled leaves it out. One header is new: it names the subscription that gave the
    message up, and all others leave it out.

    To the broker it is a new message, for its own memory of ids would swallow what is repeated
    within the duplicate window; its message id is made of the dead letter's position, so that
    replaying the same dead letter twice stores it once.

    A dead letter is removed after the broker has acknowledged its message: what happens in
    between, it is not lost.

    Args:
        transport: The broker.
        wanted: Which dead letters.
        dry_run: Only count them.
        to: Durable name of another subscription that is to handle them, or `EVERYONE`.

    Returns:
        1 if any could not be replayed, 130 when interrupted.
    """

    async def publish(letters: Sequence[Letter]) -> list[Exception | None]:
        known = [letter for letter in letters if letter.stream is not None]
        results: dict[int, Exception | None] = {
            letter.sequence: ValueError("it has no header Dead-Letter-Stream: discard it")
            for letter in letters
        }
        answers = await transport.publish_many([_outgoing(letter, to) for letter in known])
        stored: list[Letter] = []
        for letter, answer in zip(known, answers, strict=True):
            if isinstance(answer, Receipt):
                stored.append(letter)
            else:
                results[letter.sequence] = answer
        removed = await _remove(transport, stored)
        for letter, error in zip(stored, removed, strict=True):
            if error is not None:
                warn(f"{letter.sequence}: it was replayed, and is still a dead letter")
            results[letter.sequence] = error
        return [results[letter.sequence] for letter in letters]

    return await _work(transport, wanted, publish, done="replayed", dry_run=dry_run)


async def discard(transport: Transport, wanted: Filter, *, dry_run: bool) -> int:
    """Delete dead letters, and with them their messages.

    Returns:
        1 if any could not be deleted, 130 when interrupted.
    """

    async def remove(letters: Sequence[Letter]) -> list[Exception | None]:
        return await _remove(transport, letters)

    return await _work(transport, wanted, remove, done="discarded", dry_run=dry_run)


async def _work(
    transport: Transport,
    wanted: Filter,
    treat: Treat,
    *,
    done: str,
    dry_run: bool,
) -> int:
    async with transport:
        groups, last = await _count(transport, wanted)
        total = sum(group.count for group in groups.values())
        if dry_run or not total:
            _say_counts(groups, wanted)
            say(f"{counted(total, 'dead letter')} would be {done}" if total else f"nothing {done}")
            return 0
        tally = _Tally()
        task = asyncio.current_task()

        def interrupted() -> None:
            if tally.interrupted and task is not None:
                task.cancel()
            tally.interrupted = True

        with on_signals((signal.SIGINT, signal.SIGTERM), interrupted):
            try:
                # Not beyond `last`: what fails again comes back as a new dead letter.
                found = pages(transport, wanted, last=last)
                with Progress(total, done) as progress:
                    await _treat_all(found, treat, tally, progress)
            except asyncio.CancelledError:
                if not tally.interrupted:
                    raise
                warn("stopped at once: what was on its way is still a dead letter")
    for line in tally.errors.values():
        warn(line)
    say(f"{counted(tally.done, 'dead letter')} {done}, {tally.failed:,} failed")
    if tally.interrupted:
        warn(f"interrupted: {max(total - tally.done, 0):,} are left; run it again for the rest")
        return INTERRUPTED
    if tally.stopped:
        warn("stopped, because the broker does not take more at the moment: run it again")
    return 1 if tally.failed or tally.stopped else 0


@dataclass(slots=True)
class _Tally:
    done: int = 0
    failed: int = 0
    interrupted: bool = False
    stopped: bool = False
    errors: dict[str, str] = field(default_factory=dict)


async def _treat_all(
    found: AsyncGenerator[list[Letter]],
    treat: Treat,
    tally: _Tally,
    progress: Progress,
) -> None:
    async with aclosing(found):
        async for page in found:
            if tally.interrupted or tally.stopped:
                return
            for letter, error in zip(page, await treat(page), strict=True):
                if error is None:
                    tally.done += 1
                    continue
                tally.failed += 1
                tally.stopped |= isinstance(error, MessageBusError) and error.retryable
                # One of each kind: ten thousand lines would tell no more.
                kind = f"{type(error).__name__} {letter.subject} {letter.consumer}"
                if len(tally.errors) < 20:
                    tally.errors.setdefault(kind, f"{letter.sequence} {letter.subject}: {error}")
            progress.show(tally.done, tally.failed)


async def _remove(transport: Transport, letters: Sequence[Letter]) -> list[Exception | None]:
    results = await asyncio.gather(
        *(transport.remove(DEAD_LETTERS, letter.sequence) for letter in letters),
        return_exceptions=True,
    )
    found: list[Exception | None] = []
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
        found.append(result if isinstance(result, Exception) else None)
    return found


def _outgoing(letter: Letter, to: str | None) -> Outgoing:
    message = letter.message
    mark = REPLAY_CONSUMER.lower()
    headers = {name: text for name, text in letter.headers.items() if name.lower() != mark}
    # Where neither is known, nobody may be left out.
    if (consumer := to or letter.consumer) and consumer != EVERYONE:
        headers[REPLAY_CONSUMER] = consumer
    return Outgoing(
        subject=letter.subject,
        data=message.data,
        # The time, because numbers start again when the stream is made anew.
        id=f"replay:{message.stream}:{message.sequence}:{message.timestamp.isoformat()}"
        + (f":{to}" if to else ""),
        stream=letter.stream or "",
        key=letter.subject,  # so that they keep their order
        headers=headers,
    )


async def _count(
    transport: Transport, wanted: Filter
) -> tuple[dict[tuple[str, str, str], _Group], int]:
    groups: dict[tuple[str, str, str], _Group] = {}
    last = 0
    async with aclosing(pages(transport, wanted)) as found:
        async for page in found:
            for letter in page:
                last = letter.sequence
                time = letter.message.timestamp
                key = letter.subject, letter.consumer or "?", letter.reason
                group = groups.setdefault(key, _Group(0, time, time))
                group.count += 1
                group.newest = time
    return groups, last


def _none(wanted: Filter) -> str:
    return "no such dead letters" if wanted.narrow else "no dead letters"


def _say_counts(groups: dict[tuple[str, str, str], _Group], wanted: Filter) -> None:
    if not groups:
        say(_none(wanted))
        return
    rows = [
        (f"{group.count:,}", *key, _time(group.oldest), _time(group.newest))
        for key, group in sorted(groups.items())
    ]
    table(("count", "subject", "consumer", "reason", "oldest", "newest"), rows, numbers=1)


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ")
