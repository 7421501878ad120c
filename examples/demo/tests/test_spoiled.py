import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from demo.client import Tally
from demo.run import Books
from demo.spoiled import LEAST, MOST, DeadLetters, spoiled

from common.domain import streams
from common.domain.calls import CallCompleted
from common.events.core import EventBus, InMemoryTransport, Reject

BALANCED = Books(
    tally=Tally(created=2, ended=2),
    created=2,
    ended=2,
    published=2,
    processed=2,
    duplicate_effects=0,
    spoiled=Counter(malformed=3, rejected=3),
    dead_letters=Counter(malformed=3, rejected=3),
    unprocessed=[],
    seconds=1.0,
    latencies=[],
    worker_killed=True,
)


def test_books_balance_only_when_dead_letters_are_what_was_bad_on_purpose():
    assert BALANCED.balance
    for dead in ({}, {"malformed": 3, "rejected": 2}, {"malformed": 4, "rejected": 3}):
        assert not replace(BALANCED, dead_letters=Counter(dead)).balance
    swapped = Counter(malformed=3, attempts=3)
    assert not replace(BALANCED, dead_letters=swapped).balance


@pytest.mark.parametrize(("calls", "each"), [(1, LEAST), (500, 10), (1_000_000, MOST)])
def test_there_are_some_of_each_kind_but_not_too_many(calls, each):
    assert set(Counter(message.reason for message in spoiled(calls)).values()) == {each}


async def test_every_kind_becomes_a_dead_letter_with_its_reason():
    transport = InMemoryTransport()
    bus = EventBus(
        transport,
        source="/calls",
        service="calls-api",
        streams=streams.extended(services={"calls-api": ["CALL"]}),
    )

    @bus.subscribe(CallCompleted, durable="picky")
    async def picky(event: CallCompleted) -> Reject:
        return Reject("as post-processing does with an id that is none")

    await bus.start()
    letters = DeadLetters(transport)
    assert await letters.count() == Counter()
    bad = spoiled(1)
    for message in bad:
        await transport.publish(message.outgoing())
    async with asyncio.timeout(20):
        while (await letters.count()).total() < len(bad):
            await asyncio.sleep(0.01)
    assert await letters.count() == Counter(message.reason for message in bad)
    await bus.stop()
