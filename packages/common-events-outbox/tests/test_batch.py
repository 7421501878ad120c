"""Rounds of a batch, without a database."""

import asyncio

import pytest
from outbox_support import declare

from common.events.core import (
    BrokerUnavailable,
    InMemoryBroker,
    InMemoryTransport,
    MissingStream,
    Outgoing,
    PublishRejected,
    TransportClosed,
)
from common.events.outbox._batch import Outcome, Row, publish, refuses


def row(position: int, key: str | None, stream: str = "LAMP") -> Row:
    subject = f"evt.{stream.lower()}.lit"
    return Row(position, 0, 0, 0.0, Outgoing(subject, b"{}", str(position), stream, key))


class Recorder(InMemoryTransport):
    """Notes rounds; fails for positions in ``errors``."""

    def __init__(self, errors=None) -> None:
        super().__init__(InMemoryBroker())
        self.errors = errors or {}
        self.rounds: list[list[int]] = []

    async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
        self.rounds.append([int(each.id) for each in messages])
        results = await super().publish_many(messages, timeout=timeout)
        return [
            self.errors.get(int(message.id), result)
            for message, result in zip(messages, results, strict=True)
        ]


async def played(transport: Recorder, rows: list[Row], left=lambda: 60.0) -> Outcome:
    async def between() -> float:
        return left()

    outcome = Outcome()
    async with transport:
        await declare(transport)
        await publish(transport, rows, outcome, timeout=5, between=between)
    return outcome


async def test_a_round_has_one_message_of_each_key_and_all_without_key():
    transport = Recorder()
    keys = ["a", None, "a", "b", None, "a", "b"]
    outcome = await played(transport, [row(n, key) for n, key in enumerate(keys)])
    assert transport.rounds == [[0, 1, 3, 4], [2, 6], [5]]
    assert sorted(each.position for each in outcome.published) == list(range(7))


async def test_what_fails_holds_back_its_key_only():
    transport = Recorder({1: PublishRejected("no"), 5: BrokerUnavailable("away")})
    keys = ["a", "b", "a", "b", "a", "c", "c", "a"]
    outcome = await played(transport, [row(n, key) for n, key in enumerate(keys)])
    assert [each.position for each in outcome.published] == [0, 2, 4, 7]
    assert [each.position for each, _ in outcome.refused] == [1]
    assert [each.position for each, _ in outcome.failed] == [5]
    assert outcome.stopped == {}  # others of its stream went through


async def test_a_stream_of_which_nothing_goes_through_is_stopped_the_others_go_on():
    away = BrokerUnavailable("away")
    transport = Recorder({0: away, 1: away})
    rows = [row(0, "a"), row(1, "b"), row(2, "c", "DOOR"), row(3, "c", "DOOR"), row(4, "c")]
    outcome = await played(transport, rows)
    assert outcome.stopped == {"LAMP": away}
    assert [each.position for each in outcome.published] == [2, 3]
    assert transport.rounds == [[0, 1, 2], [3]]


async def test_rounds_end_when_the_lease_does():
    transport = Recorder()
    left = iter([60.0, 0.0])
    outcome = await played(transport, [row(n, "a") for n in range(5)], lambda: next(left))
    assert [each.position for each in outcome.published] == [0]


async def test_a_round_that_outlasts_the_lease_is_given_up():
    class Hanging(Recorder):
        async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
            await asyncio.sleep(60)
            return []

    outcome = await played(Hanging(), [row(0, "a")], lambda: 0.05)
    assert outcome == Outcome()


async def test_what_went_through_before_the_transport_closed_is_known():
    class Closing(Recorder):
        async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
            found = await super().publish_many(messages, timeout=timeout)
            await self.close()
            return found

    outcome = await played(Closing(), [row(0, "a"), row(1, "a")])
    assert [each.position for each in outcome.published] == [0]
    assert isinstance(outcome.closed, TransportClosed)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PublishRejected("no"), True),
        (PublishRejected("full", retryable=True), False),
        (MissingStream("none"), True),
        (BrokerUnavailable("away"), False),
    ],
)
def test_only_what_is_about_the_message_counts_as_refused(error, expected):
    assert refuses(error) is expected
