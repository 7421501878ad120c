"""Contract: looking at what is stored, and removing it."""

# ruff: noqa: S101 - tests, which say by their name what they check

from datetime import UTC, datetime, timedelta

import pytest

from common.events.core._errors import MissingStream
from common.events.core._transport import Capability, Transport
from common.events.core.testing._base import (
    STREAM,
    ContractBase,
    counted,
    message,
    messages,
    numbers,
)


class BrowsingContract(ContractBase):
    """`Transport.browse` and `Transport.remove`."""

    async def test_stored_messages_are_shown_in_their_order(self, transport: Transport) -> None:
        self.needs(Capability.BROWSE)
        assert list(await transport.browse(STREAM)) == []
        receipts = [
            await transport.publish(message(str(n), subject=f"n{n}", headers={"Number": str(n)}))
            for n in range(1, 6)
        ]
        found = await transport.browse(STREAM)
        assert numbers(found) == counted(1, 5)
        assert [one.sequence for one in found] == [receipt.sequence for receipt in receipts]
        for number, one in enumerate(found, start=1):
            assert (one.stream, one.subject) == (STREAM, f"evt.contract.n{number}")
            assert one.headers["Number"] == str(number)
            assert one.timestamp.utcoffset() == timedelta(0)
            assert abs(one.timestamp - datetime.now(UTC)) < timedelta(seconds=self.patience)

    async def test_pages_follow_each_other(self, transport: Transport) -> None:
        self.needs(Capability.BROWSE)
        await transport.publish_many(messages(25))
        got: list[str] = []
        after = 0
        for size in (10, 10, 5):
            page = await transport.browse(STREAM, after=after, limit=10)
            assert len(page) == size
            got += numbers(page)
            after = page[-1].sequence
        assert got == counted(1, 25)
        assert not await transport.browse(STREAM, after=after, limit=10)
        assert len(await transport.browse(STREAM, limit=3)) == 3

    async def test_a_page_has_what_its_filter_passes(self, transport: Transport) -> None:
        self.needs(Capability.BROWSE)
        for number, subject in enumerate(["a.x", "b.x", "a.y", "a.x"], start=1):
            await transport.publish(message(str(number), subject=subject))
        for subject, passing in {
            "evt.contract.a.x": ["1", "4"],
            "evt.contract.a.>": ["1", "3", "4"],
            "evt.contract.*.x": ["1", "2", "4"],
            "evt.contract.c": [],
        }.items():
            assert numbers(await transport.browse(STREAM, subject=subject)) == passing
        assert numbers(await transport.browse(STREAM, subject="evt.contract.a.x", after=1)) == ["4"]
        assert numbers(await transport.browse(STREAM, subject="evt.contract.a.>", limit=2)) == [
            "1",
            "3",
        ]

    async def test_browsing_consumes_nothing(self, transport: Transport) -> None:
        self.needs(Capability.BROWSE)
        await transport.publish_many(messages(3))
        async with self.reading(transport, self.spec()) as consumer:
            await transport.browse(STREAM)
            got = await self.receive(consumer, 3)
            assert numbers(got) == counted(1, 3)
            assert {delivery.attempt for delivery in got} == {1}
            await self.ack(*got)
            assert numbers(await transport.browse(STREAM)) == counted(1, 3)

    async def test_what_is_removed_is_gone(self, transport: Transport) -> None:
        self.needs(Capability.BROWSE)
        await transport.publish_many(messages(4))
        found = await transport.browse(STREAM)
        assert await transport.remove(STREAM, found[1].sequence)
        assert await transport.remove(STREAM, found[3].sequence)
        assert not await transport.remove(STREAM, found[1].sequence)
        assert not await transport.remove(STREAM, 1_000_000)
        assert numbers(await transport.browse(STREAM)) == ["1", "3"]
        await transport.publish(message("5"))
        async with self.reading(transport, self.spec()) as consumer:
            assert numbers(await self.receive(consumer, 3)) == ["1", "3", "5"]
            await self.nothing_comes(consumer)

    async def test_a_missing_stream_has_nothing_to_show(self, transport: Transport) -> None:
        self.needs(Capability.BROWSE)
        with pytest.raises(MissingStream):
            await transport.browse("MISSING")
        with pytest.raises(MissingStream):
            await transport.remove("MISSING", 1)
