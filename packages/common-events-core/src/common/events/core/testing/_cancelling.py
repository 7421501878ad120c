"""Contract: cancelling at any await loses nothing and breaks nothing."""

# ruff: noqa: S101 - tests, which say by their name what they check

import asyncio
import random

import pytest

from common.events.core._transport import Capability, Delivery, Outgoing, Receipt, Transport
from common.events.core.testing._base import (
    STREAM,
    ContractBase,
    NewTransport,
    message,
    messages,
    numbers,
)
from common.testing import cancel_at_every_await


class CancellingContract(ContractBase):
    """Cancellation."""

    async def test_a_cancelled_publish_is_stored_once_or_not_at_all(
        self, transport: Transport
    ) -> None:
        sent: list[Outgoing] = []
        acknowledged: list[str] = []

        async def publish() -> None:
            sent.append(message(str(len(sent))))
            acknowledged.append((await transport.publish(sent[-1])).id)

        async def check() -> None:
            # The same id again: stored now, or known; other messages are not disturbed.
            assert (await transport.publish(message("other"))).sequence > 0
            receipt = await transport.publish(sent[-1])
            if sent[-1].id in acknowledged and Capability.DEDUPLICATION in self.capabilities:
                assert receipt.duplicate

        assert await cancel_at_every_await(publish, check) >= 1
        assert sent[-1].id in acknowledged
        if {Capability.DEDUPLICATION, Capability.BROWSE} <= self.capabilities:
            stored = numbers(await transport.browse(STREAM, limit=1_000))
            once = [number for number in stored if number != "other"]
            assert sorted(once, key=int) == [str(number) for number in range(len(sent))]

    async def test_cancelled_publishing_frees_its_place(self, transport: Transport) -> None:
        """More cancelled than any window has places: they would all be taken."""
        for _ in range(4):
            tasks = [asyncio.create_task(transport.publish(one)) for one in messages(600)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} <= {Receipt, asyncio.CancelledError}
        async with asyncio.timeout(self.patience):
            assert isinstance(await transport.publish(message()), Receipt)
            results = list(await transport.publish_many(messages(1_200)))
        assert {type(result) for result in results} == {Receipt}

    async def test_a_cancelled_batch_breaks_nothing(self, transport: Transport) -> None:
        sent: list[list[Outgoing]] = []
        finished: list[Outgoing] = []

        async def publish() -> None:
            sent.append(messages(3))
            await transport.publish_many(sent[-1])
            finished.extend(sent[-1])

        async def check() -> None:
            for one, receipt in zip(sent[-1], await transport.publish_many(sent[-1]), strict=True):
                assert isinstance(receipt, Receipt)
                assert receipt.id == one.id

        assert await cancel_at_every_await(publish, check) >= 1
        assert finished == sent[-1]
        if {Capability.DEDUPLICATION, Capability.BROWSE} <= self.capabilities:
            stored = await transport.browse(STREAM, limit=10_000)
            assert len(stored) == 3 * len(sent)

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_cancelled_receiving_loses_nothing(self, transport: Transport, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        got: list[Delivery] = []
        published = 0
        async with self.reading(transport, self.spec(max_outstanding=500)) as consumer:

            async def receive() -> None:
                got.extend(await consumer.receive())

            for _ in range(200):
                tasks = [asyncio.create_task(receive())]
                if chance.random() < 0.7:
                    published += 1
                    tasks.append(asyncio.create_task(_publish(transport, published)))
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)
                if chance.random() < 0.3:
                    await asyncio.sleep(0.001)
                tasks[0].cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            # None of them waits for ack_wait, which is longer than the patience.
            got += await self.receive(consumer, published - len(got))
        assert sorted(numbers(got), key=int) == [str(n) for n in range(1, published + 1)]
        assert {delivery.attempt for delivery in got} == {1}

    async def test_receiving_is_cancelled_at_every_await(self, transport: Transport) -> None:
        got: list[Delivery] = []
        published = 0
        async with self.reading(transport, self.spec(max_outstanding=500)) as consumer:

            async def receive() -> None:
                nonlocal published
                published += 1
                await transport.publish(message(str(published)))
                published_now.set()
                got.extend(await consumer.receive())

            async def check() -> None:
                if not published_now.is_set():
                    receipt = message(str(published))
                    await transport.publish(receipt)
                published_now.clear()

            published_now = asyncio.Event()
            await cancel_at_every_await(receive, check)
            expected = {str(n) for n in range(1, published + 1)}
            while not expected <= set(numbers(got)):
                got += await self.receive(consumer, 1)
        assert {delivery.attempt for delivery in got} == {1}

    async def test_a_cancelled_consume_leaves_no_reader_behind(
        self, transport: Transport, other: Transport
    ) -> None:
        """A reader that nobody knows of would keep messages from the others."""

        async def open_and_close() -> None:
            consumer = await self.opened(transport, self.spec())
            await consumer.close()

        async def check() -> None:
            await transport.publish(message("1"))
            async with self.reading(other, self.spec()) as consumer:
                await self.ack(await self.receive_one(consumer))

        await cancel_at_every_await(open_and_close, check)

    async def test_a_cancelled_settling_or_closing_loses_nothing(
        self, transport: Transport, other: Transport
    ) -> None:
        opened = None

        async def work() -> None:
            nonlocal opened
            opened = await self.opened(transport, self.spec())
            first, second = await self.receive(opened, 2)
            await first.nak()
            await second.in_progress()
            await opened.stop()
            await opened.close()

        async def check() -> None:
            if opened is not None:
                await opened.close()
            async with self.reading(other, self.spec()) as consumer:
                assert sorted(numbers(await self.receive(consumer, 2))) == ["1", "2"]

        await transport.publish_many(messages(2))
        await cancel_at_every_await(work, check)

    async def test_a_cancelled_opening_or_closing_leaves_nothing_open(
        self, transport: Transport, new_transport: NewTransport
    ) -> None:
        opening = new_transport()

        async def open_and_close() -> None:
            nonlocal opening
            opening = new_transport()
            await opening.open()
            await opening.publish(message())
            await opening.close()

        async def check() -> None:
            await opening.close()
            assert not (await opening.health()).ok
            assert (await transport.health()).ok

        await cancel_at_every_await(open_and_close, check)


async def _publish(transport: Transport, number: int) -> None:
    await transport.publish(message(str(number)))
