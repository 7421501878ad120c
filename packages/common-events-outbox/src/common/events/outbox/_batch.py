"""Publishing a batch: in rounds of one message for each key."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import MessageBusError
from common.events.core import (
    NO_HEADERS,
    MissingStream,
    Outgoing,
    PublishRejected,
    Receipt,
    Transport,
    TransportClosed,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A stored message.

    Args:
        position: Its place in the order.
        partition: Partition of its key.
        attempts: How often the broker has refused it.
        age: Seconds since it was stored.
        outgoing: The message.
    """

    position: int
    partition: int
    attempts: int
    age: float
    outgoing: Outgoing


@dataclass(slots=True)
class Outcome:
    """What became of a batch; a row in none of the lists was not tried.

    Args:
        published: The broker has them.
        refused: The broker will not take them as they are, and why.
        failed: Other failures, which say nothing about the message.
        stopped: Streams of which nothing was taken, with the last error of each.
        closed: The transport is not open any more.
    """

    published: list[Row] = field(default_factory=list)
    refused: list[tuple[Row, MessageBusError]] = field(default_factory=list)
    failed: list[tuple[Row, MessageBusError]] = field(default_factory=list)
    stopped: dict[str, MessageBusError] = field(default_factory=dict)
    closed: TransportClosed | None = None


def read_row(record: Any) -> Row:
    """Return a row of `Statements.read`."""
    position, partition, attempts, age, subject, data, id_, stream, key, headers = record
    return Row(
        position,
        partition,
        attempts,
        age,
        Outgoing(subject, bytes(data), id_, stream, key, headers or NO_HEADERS),
    )


def refuses(error: MessageBusError) -> bool:
    """Tell whether an error is about the message, so that trying it for ever would be vain."""
    return isinstance(error, PublishRejected | MissingStream) and not error.retryable


async def publish(
    transport: Transport,
    rows: Sequence[Row],
    outcome: Outcome,
    *,
    timeout: float,  # noqa: ASYNC109 - of each message
    between: Callable[[], Awaitable[float]],
) -> None:
    """Publish rows; of one key each only after the broker has the one before.

    Rows without a key are in no order, and go out in the first round.

    Args:
        transport: Where to.
        rows: In their order.
        outcome: Is filled; also when this is cancelled, with what is known by then.
        timeout: Seconds for each message.
        between: Called before each round: returns the seconds the round may take, 0 to stop.
    """
    lanes: dict[str | None, deque[Row]] = {}
    turn = [row for row in rows if _leads(row, lanes)]
    while turn:
        seconds = await between()
        if seconds <= 0:
            break
        try:
            async with asyncio.timeout(seconds):
                results = await transport.publish_many(
                    [row.outgoing for row in turn], timeout=min(timeout, seconds)
                )
        except TimeoutError:  # nothing is known of this round; its messages keep their ids
            break
        except TransportClosed as error:
            outcome.closed = error
            break
        _judge(turn, results, outcome)
        if outcome.closed is not None:
            break
        acknowledged = [
            row for row, result in zip(turn, results, strict=True) if isinstance(result, Receipt)
        ]
        following = [
            lane.popleft() for row in acknowledged if (lane := lanes.get(row.outgoing.key))
        ]
        turn = [row for row in following if row.outgoing.stream not in outcome.stopped]


def _leads(row: Row, lanes: dict[str | None, deque[Row]]) -> bool:
    """Whether a row need not wait for another of its key; if so, put it into its lane."""
    key = row.outgoing.key
    if key is None:
        return True
    if key in lanes:
        lanes[key].append(row)
        return False
    lanes[key] = deque()
    return True


def _judge(
    turn: Sequence[Row], results: "Sequence[Receipt | MessageBusError]", outcome: Outcome
) -> None:
    taken: set[str] = set()
    troubled: dict[str, MessageBusError] = {}
    for row, result in zip(turn, results, strict=True):
        if isinstance(result, Receipt):
            outcome.published.append(row)
            taken.add(row.outgoing.stream)
        elif isinstance(result, TransportClosed):
            outcome.closed = result
        elif refuses(result):
            outcome.refused.append((row, result))
            taken.add(row.outgoing.stream)  # the broker answers
        else:
            outcome.failed.append((row, result))
            troubled[row.outgoing.stream] = result
    for stream, error in troubled.items():
        if stream not in taken:
            outcome.stopped[stream] = error
