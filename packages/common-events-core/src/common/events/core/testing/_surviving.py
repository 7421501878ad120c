"""Contract: random histories of publishers and consumers that come, fail and go."""

# ruff: noqa: S101 - tests, which say by their name what they check

import asyncio
from dataclasses import replace

import pytest

from common.errors import MessageBusError
from common.events.core._transport import Capability, Delivery, Receipt, Transport
from common.events.core.testing._base import STREAM, ContractBase, OpenTransport, message
from common.events.core.testing._history import History

_KEYS = "abc"


class SurvivingContract(ContractBase):
    """Everything together."""

    @pytest.mark.parametrize("seed", [1, 2, 3])
    @pytest.mark.parametrize("ordered", [False, True], ids=["shared", "ordered"])
    async def test_a_random_history_keeps_the_promises(
        self, transport: Transport, open_transport: OpenTransport, *, seed: int, ordered: bool
    ) -> None:
        self.needs(Capability.BROWSE, *([Capability.ORDERED] if ordered else []))
        history = History(seed=seed)
        processes = [await open_transport(), await open_transport()]
        publishing = asyncio.create_task(self._publish(history, transport))
        left, since = 0, self.now()
        while True:
            for process in processes:
                await self._consume_for_a_while(history, process, ordered=ordered)
            if publishing.done():
                await publishing
                await self._find_stored(history, transport)
                before, left = left, len(history.unfinished("worker"))
                since = self.now() if left != before else since
                if not left or self.now() - since > self.patience:
                    break  # what is left is named below
        history.check(consumers=["worker"], ordered=ordered)

    async def _publish(self, history: History, transport: Transport) -> None:
        async def publisher(key: str) -> None:
            for number in range(30):
                sent = replace(message(f"{key}-{number}"), id=f"{key}-{number}", key=key)
                history.attempted(sent.id, key=key)
                for _ in range(history.random.choice([1, 1, 2])):
                    await transport.publish(sent)
                history.acknowledged(sent.id)
                await asyncio.sleep(0)

        await asyncio.gather(*(publisher(key) for key in _KEYS))

    async def _consume_for_a_while(
        self, history: History, transport: Transport, *, ordered: bool
    ) -> None:
        """Handle some messages, hand some back, drop the rest."""
        chance = history.random
        spec = self.spec(
            ordered=ordered, max_outstanding=chance.choice([1, 5, 20]), ack_wait=self.long
        )
        async with self.reading(transport, spec) as consumer:
            for _ in range(chance.randrange(1, 6)):
                batch = await self.arrival(consumer, self.ack_wait / 2)
                if not batch:
                    return
                for delivery in batch:
                    if chance.random() < 0.1:
                        return  # what is left in hand goes back
                    if not ordered and chance.random() < 0.2:
                        await delivery.nak()
                    else:
                        await self._handle(history, delivery)

    async def _handle(self, history: History, delivery: Delivery) -> None:
        assert not delivery.exhausted
        history.handled(delivery.data.decode(), consumer="worker")
        await self.ack(delivery)

    async def _find_stored(self, history: History, transport: Transport) -> None:
        if not history.ids("stored"):
            for one in await transport.browse(STREAM, limit=10_000):
                history.stored(one.data.decode())

    async def test_closing_in_the_midst_leaves_what_was_acknowledged(
        self, transport: Transport, open_transport: OpenTransport
    ) -> None:
        self.needs(Capability.BROWSE)
        history = History(seed=1)
        for turn in range(5):
            process = await open_transport()
            tasks = [
                asyncio.create_task(self._publish_one(history, process, f"{turn}-{number}"))
                for number in range(100)
            ]
            for _ in range(history.random.randrange(5)):
                await asyncio.sleep(0)
            await process.close()
            await asyncio.wait_for(asyncio.gather(*tasks), self.patience)
        for one in await transport.browse(STREAM, limit=10_000):
            history.stored(one.data.decode())
        history.check(consumers=[])

    async def _publish_one(self, history: History, transport: Transport, name: str) -> None:
        history.attempted(name)
        try:
            receipt = await transport.publish(replace(message(name), id=name))
        except MessageBusError:
            return
        assert isinstance(receipt, Receipt)
        history.acknowledged(name)
