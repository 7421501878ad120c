"""Contract: who gets which messages."""

# ruff: noqa: S101 - tests, which say by their name what they check

import asyncio
from dataclasses import replace

import pytest

from common.events.core._errors import ConsumerLost, DeclarationConflict, MissingStream
from common.events.core._transport import Capability, Transport
from common.events.core.testing._base import (
    SPEC,
    STREAM,
    ContractBase,
    OpenTransport,
    counted,
    message,
    messages,
    numbers,
)


class ConsumingContract(ContractBase):
    """`Transport.consume` and `Consumer`."""

    async def test_a_new_consumer_starts_where_it_says(self, transport: Transport) -> None:
        await transport.publish_many(messages(2))
        async with (
            self.reading(transport, self.spec("all", deliver="all")) as everything,
            self.reading(transport, self.spec("new", deliver="new")) as news,
        ):
            await transport.publish(message("3"))
            assert numbers(await self.receive(everything, 3)) == counted(1, 3)
            assert numbers(await self.receive(news, 1)) == ["3"]
            await self.nothing_comes(news)

    async def test_a_durable_goes_on_where_it_was(
        self, transport: Transport, other: Transport
    ) -> None:
        await transport.publish_many(messages(2))
        async with self.reading(transport, self.spec(deliver="all")) as consumer:
            await self.ack(*await self.receive(consumer, 2))
        await transport.publish(message("3"))
        async with self.reading(other, self.spec(deliver="all")) as consumer:
            assert numbers([await self.receive_one(consumer)]) == ["3"]

    async def test_one_durable_in_two_processes_shares_its_messages(
        self, transport: Transport, other: Transport
    ) -> None:
        spec = self.spec(max_outstanding=5)
        async with (
            self.reading(transport, spec) as one,
            self.reading(other, spec) as two,
        ):
            await transport.publish_many(messages(10))
            mine, yours = await self.receive(one, 5), await self.receive(two, 5)
            assert len(mine) == len(yours) == 5, "each holds as many as it may"
            assert sorted(numbers([*mine, *yours]), key=int) == counted(1, 10)
            await self.ack(*mine, *yours)
            await self.nothing_comes(one)
            await self.nothing_comes(two)

    async def test_each_durable_gets_everything(
        self, transport: Transport, other: Transport
    ) -> None:
        async with (
            self.reading(transport, self.spec("billing")) as one,
            self.reading(other, self.spec("search")) as two,
        ):
            await transport.publish_many(messages(20))
            first = await self.receive(one, 20)
            await self.ack(*first)
            second = await self.receive(two, 20)
            assert numbers(first) == numbers(second) == counted(1, 20)
            assert {delivery.attempt for delivery in second} == {1}

    async def test_no_more_are_outstanding_than_asked_for(self, transport: Transport) -> None:
        await transport.publish_many(messages(10))
        async with self.reading(transport, self.spec(max_outstanding=3)) as consumer:
            got = await self.receive(consumer, 3)
            assert numbers(got) == counted(1, 3)
            await self.nothing_comes(consumer)
            await self.ack(got[1])
            assert numbers([await self.receive_one(consumer)]) == ["4"]
            await got[0].term()
            assert numbers([await self.receive_one(consumer)]) == ["5"]
            await self.nothing_comes(consumer)

    @pytest.mark.parametrize(
        ("filters", "passing"),
        [
            (("evt.contract.>",), "a.done a.begun b.done a.b.done a"),
            (("evt.contract.a.>",), "a.done a.begun a.b.done"),
            (("evt.contract.*.done",), "a.done b.done"),
            (("evt.contract.a",), "a"),
            (("evt.contract.a", "evt.contract.b.*"), "b.done a"),
        ],
        ids=["all", "rest", "word", "exact", "several"],
    )
    async def test_filters_pass_what_they_say(
        self, transport: Transport, filters: tuple[str, ...], passing: str
    ) -> None:
        for subject in ("a.done", "a.begun", "b.done", "a.b.done", "a"):
            await transport.publish(message(subject=subject))
        await transport.publish(message("the last", subject=passing.split(maxsplit=1)[0]))
        async with self.reading(transport, self.spec(subjects=filters)) as consumer:
            got = await self.receive(consumer, len(passing.split()) + 1)
            subjects = [delivery.subject.removeprefix("evt.contract.") for delivery in got]
            assert subjects == [*passing.split(), passing.split(maxsplit=1)[0]]
            await self.nothing_comes(consumer)

    async def test_a_waiting_receive_gets_what_is_published(self, transport: Transport) -> None:
        async with self.reading(transport, self.spec()) as consumer:
            for number in ("1", "2"):
                waiting = asyncio.ensure_future(self.receive(consumer, 1))
                await asyncio.sleep(0)
                await transport.publish(message(number))
                assert numbers(await waiting) == [number]

    async def test_stop_ends_a_waiting_receive(self, transport: Transport) -> None:
        async with self.reading(transport, self.spec()) as consumer:
            waiting = asyncio.ensure_future(consumer.receive())
            await self.sleep(self.ack_wait / 10)
            await consumer.stop()
            assert not await asyncio.wait_for(waiting, self.patience)
            assert not await asyncio.wait_for(consumer.receive(), self.patience)
            await consumer.stop()

    async def test_stop_hands_back_at_once_what_was_not_received(
        self, transport: Transport, other: Transport
    ) -> None:
        await transport.publish_many(messages(30))
        async with self.reading(transport, self.spec(max_outstanding=10)) as stopped:
            mine = await self.receive(stopped, 1)
            await stopped.stop()
            while batch := await asyncio.wait_for(stopped.receive(), self.patience):
                mine += batch
            async with self.reading(other, self.spec(max_outstanding=50)) as consumer:
                # Nobody waits for ack_wait: it is longer than the patience.
                yours = await self.receive(consumer, 30 - len(mine))
                assert sorted(numbers([*mine, *yours]), key=int) == counted(1, 30)
                await self.ack(*mine)  # what is in hand may be finished
                await self.ack(*yours)
                await stopped.close()
                await self.nothing_comes(consumer)

    async def test_close_hands_back_at_once_what_is_not_settled(
        self, transport: Transport, other: Transport
    ) -> None:
        await transport.publish_many(messages(10))
        closing = await self.opened(transport, self.spec(max_outstanding=10))
        mine = await self.receive(closing, 10)
        async with self.reading(other, self.spec()) as consumer:
            await self.ack(*mine[:2])
            await self.nothing_comes(consumer)
            await closing.close()
            yours = await self.receive(consumer, 8)
            assert sorted(numbers(yours), key=int) == counted(3, 10)
            assert {delivery.attempt for delivery in yours} == {2}
            await self.ack(*yours)
            await self.nothing_comes(consumer)

    async def test_closing_the_transport_hands_back_and_ends_consumers(
        self, transport: Transport, other: Transport
    ) -> None:
        await transport.publish_many(messages(5))
        consumer = await self.opened(transport, self.spec())
        await self.ack((await self.receive(consumer, 5))[0])
        waiting = asyncio.ensure_future(consumer.receive())
        await asyncio.sleep(0)
        await transport.close()
        assert not await asyncio.wait_for(waiting, self.patience)
        async with self.reading(other, self.spec()) as survivor:
            got = await self.receive(survivor, 4)
            assert sorted(numbers(got)) == counted(2, 5)
            assert {delivery.attempt for delivery in got} == {2}
        await consumer.close()

    async def test_closing_twice_is_the_same_as_once(self, transport: Transport) -> None:
        consumer = await self.opened(transport, self.spec())
        await consumer.close()
        await consumer.close()
        await consumer.stop()
        assert not await asyncio.wait_for(consumer.receive(), self.patience)

    async def test_consumers_come_and_go_without_a_loss(
        self, transport: Transport, open_transport: OpenTransport
    ) -> None:
        processes = [transport, await open_transport(), await open_transport()]
        await transport.publish_many(messages(60))
        done: list[str] = []
        for turn in range(200):
            async with self.reading(processes[turn % 3], self.spec(max_outstanding=7)) as consumer:
                got = await self.receive(consumer, 1)
                await self.ack(*got[: turn % 4])
                done += numbers(got[: turn % 4])
            if len(done) == 60:
                break
        assert sorted(done, key=int) == counted(1, 60)

    async def test_a_consumer_needs_its_stream(self, transport: Transport) -> None:
        with pytest.raises(MissingStream):
            await self.opened(transport, replace(self.spec(), stream="MISSING"))

    async def test_a_consumer_cannot_start_elsewhere_later(self, transport: Transport) -> None:
        async with self.reading(transport, self.spec(deliver="all")):
            pass
        with pytest.raises(DeclarationConflict) as caught:
            await self.opened(transport, self.spec(deliver="new"))
        assert caught.value.differences

    async def test_settings_that_can_change_do(self, transport: Transport) -> None:
        async with self.reading(transport, self.spec(max_deliver=5)):
            pass
        await transport.publish(message("1"))
        spec = self.spec(ack_wait=self.ack_wait, max_deliver=1)
        async with self.reading(transport, spec) as consumer:
            assert not (await self.receive_one(consumer)).exhausted
            last = await self.receive_one(consumer)
            assert last.exhausted
            await last.ack()

    async def test_subjects_are_only_added(self, transport: Transport) -> None:
        newer = ("evt.contract.one", "evt.contract.two")
        async with self.reading(transport, self.spec(subjects=newer)):
            pass
        async with self.reading(transport, self.spec(subjects=newer[:1])) as older:
            await transport.publish_many([*messages(1, subject="one"), *messages(1, subject="two")])
            await self.receive(older, 2)  # and hands both back
        async with self.reading(transport, self.spec(subjects=newer)) as consumer:
            got = await self.receive(consumer, 2)
            assert sorted(delivery.subject for delivery in got) == sorted(newer)
            await self.ack(*got)

    async def test_a_deleted_durable_is_made_anew(self, transport: Transport) -> None:
        async with self.reading(transport, self.spec()) as consumer:
            await transport.publish(message("1"))
            await self.ack(await self.receive_one(consumer))
            await self.delete_consumer(transport, STREAM, "worker")
            await transport.publish(message("2"))
            got: set[str] = set()
            while "2" not in got:
                batch = await self.receive(consumer, 1)
                await self.ack(*batch)
                got.update(numbers(batch))

    async def test_a_deleted_stream_ends_the_consumer_loudly(self, transport: Transport) -> None:
        async with self.reading(transport, self.spec()) as consumer:
            waiting = asyncio.ensure_future(consumer.receive())
            await self.sleep(self.ack_wait / 10)
            await self.delete_stream(transport, STREAM)
            with pytest.raises(ConsumerLost):
                await asyncio.wait_for(waiting, self.patience)
            with pytest.raises(ConsumerLost):
                await asyncio.wait_for(consumer.receive(), self.patience)

    async def test_what_was_acknowledged_survives_a_restart(self, transport: Transport) -> None:
        self.needs(Capability.DURABLE)
        await transport.declare(
            [replace(SPEC, name="KEPT", subjects=("evt.kept.>",), storage="file")], mode="create"
        )
        sent = [message(str(n), stream="KEPT") for n in range(1, 51)]
        sent = [replace(one, subject="evt.kept.one") for one in sent]
        for receipt in await transport.publish_many(sent):
            assert not isinstance(receipt, Exception)
        spec = replace(self.spec(), stream="KEPT", subjects=("evt.kept.>",))
        async with self.reading(transport, spec) as consumer:
            got = await self.receive(consumer, 50)
            await self.ack(*got[:20])
            await self.restart_broker()
            for receipt in await transport.publish_many(sent, timeout=self.patience):
                assert not isinstance(receipt, Exception)
                assert receipt.duplicate, "message ids survive, too"
            await transport.publish(replace(sent[0], id="after the restart", data=b"51"))
            await self.ack(*got[20:])
            while numbers(got)[-1] != "51":
                batch = await self.receive(consumer, 1)
                await self.ack(*batch)
                got += batch
        assert {*numbers(got)} == {*counted(1, 51)}
