"""Contract: ordered consumers."""

# ruff: noqa: S101 - tests, which say by their name what they check

import asyncio

import pytest

from common.events.core._transport import Capability, Consumer, Delivery, Transport
from common.events.core.testing._base import (
    ContractBase,
    OpenTransport,
    counted,
    messages,
    numbers,
)


class OrderingContract(ContractBase):
    """``ConsumerSpec.ordered``."""

    async def test_messages_come_in_the_order_of_the_stream(self, transport: Transport) -> None:
        self.needs(Capability.ORDERED)
        await transport.publish_many(messages(300))
        got: list[str] = []
        async with self.reading(transport, self.spec(ordered=True)) as consumer:
            while len(got) < 300:
                batch = await self.receive(consumer, 1)
                await self.ack(*reversed(batch))
                got += numbers(batch)
        assert got == counted(1, 300)

    async def test_one_process_reads_at_a_time(
        self, transport: Transport, open_transport: OpenTransport
    ) -> None:
        self.needs(Capability.ORDERED)
        spec = self.spec(ordered=True, max_outstanding=10)
        processes = [transport, await open_transport(), await open_transport()]
        consumers = [await self.opened(process, spec) for process in processes]
        got: list[list[Delivery]] = [[], [], []]

        async def read(number: int) -> None:
            while batch := await consumers[number].receive():
                got[number] += batch

        tasks = [asyncio.create_task(read(number)) for number in range(3)]
        await transport.publish_many(messages(30))

        async def ten_are_outstanding() -> bool:
            return sum(len(one) for one in got) >= 10

        await self.eventually(ten_are_outstanding)
        await self.sleep(self.ack_wait / 2)
        (active,) = [number for number in range(3) if got[number]]
        assert numbers(got[active]) == counted(1, 10), "the others get nothing, though they could"

        await self.ack(*got[active])

        async def the_same_goes_on() -> bool:
            return len(got[active]) >= 20

        await self.eventually(the_same_goes_on)
        assert [number for number in range(3) if got[number]] == [active]
        assert numbers(got[active]) == counted(1, 20)
        for consumer in consumers:
            await consumer.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), self.patience)
        for consumer in consumers:
            await consumer.close()

    @pytest.mark.parametrize("kept", [False, True], ids=["plain", "extended"])
    async def test_nothing_overtakes_what_a_crashed_process_had_in_hand(
        self, transport: Transport, open_transport: OpenTransport, *, kept: bool
    ) -> None:
        self.needs(Capability.ORDERED)
        spec = self.spec(ordered=True, max_outstanding=4, ack_wait=self.ack_wait)
        victim = await open_transport()
        await transport.publish_many(messages(12))
        crashing = await self.opened(victim, spec)
        in_hand = await self.receive(crashing, 4)
        assert numbers(in_hand) == counted(1, 4)
        await self.ack(in_hand[0])
        if kept:  # comes again later than those behind it
            await self.sleep(self.ack_wait / 4)
            await in_hand[1].in_progress()
        await self.settled(transport, in_hand[0])
        await self.crash(victim)
        async with self.reading(transport, spec) as consumer:
            got = await self.until(consumer, 12)
        order = list(dict.fromkeys(numbers(got)))
        assert set(counted(2, 12)) <= set(order)
        after = [number for number in order if int(number) > 5]
        assert after == sorted(after, key=int)
        # 5 may have been on its way to the crashed process when 1 was acknowledged.
        late = [order.index(number) for number in counted(2, 4)]
        assert max(late) < min(order.index(number) for number in after), order

    async def test_what_is_handed_over_comes_before_what_follows(
        self, transport: Transport, other: Transport
    ) -> None:
        self.needs(Capability.ORDERED)
        spec = self.spec(ordered=True, max_outstanding=4)
        await transport.publish_many(messages(12))
        closing = await self.opened(transport, spec)
        in_hand = await self.receive(closing, 4)  # before another may become the active one
        standing_by = await self.opened(other, spec)
        await self.ack(in_hand[1])
        await closing.close()
        got = await self.until(standing_by, 12)
        assert list(dict.fromkeys(numbers(got))) == ["1", *counted(3, 12)]
        await standing_by.close()

    async def test_a_process_that_finishes_after_stop_is_not_overtaken(
        self, transport: Transport, other: Transport
    ) -> None:
        self.needs(Capability.ORDERED)
        spec = self.spec(ordered=True, max_outstanding=4)
        await transport.publish_many(messages(8))
        stopping = await self.opened(transport, spec)
        in_hand = await self.receive(stopping, 4)
        standing_by = await self.opened(other, spec)
        await stopping.stop()
        while batch := await asyncio.wait_for(stopping.receive(), self.patience):
            in_hand += batch
        await self.nothing_comes(standing_by)
        await self.ack(*in_hand)
        await stopping.close()
        got = await self.until(standing_by, 8)
        first = len(in_hand) + 1
        assert list(dict.fromkeys(numbers(got))) == counted(first, 8)
        await standing_by.close()

    async def settled(self, transport: Transport, delivery: Delivery) -> None:
        """Give the broker time to learn of an acknowledgement."""
        assert delivery.settled
        assert (await transport.health()).ok

    async def until(self, consumer: Consumer, last: int) -> list[Delivery]:
        """Acknowledge one after another what comes, until a number came."""
        got: list[Delivery] = []
        while str(last) not in numbers(got):
            batch = await self.receive(consumer, 1)
            for delivery in batch:
                await self.ack(delivery)
            got += batch
        return got
