import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from common.events.core._declarations import StreamSpec
from common.events.core._errors import BrokerUnavailable, PublishRejected
from common.events.core._memory import InMemoryTransport
from common.events.core._memory_broker import InMemoryBroker, InMemoryConfig
from common.events.core._transport import ConsumerSpec, Outgoing, Receipt

CALL = StreamSpec(name="CALL", subjects=("evt.call.>",))
SPEC = ConsumerSpec(durable="billing", stream="CALL", subjects=("evt.call.>",))


def message(number, *, subject="evt.call.completed", size=1):
    return Outgoing(subject, b"x" * size, id=str(number), stream="CALL")


@pytest.fixture
async def transport():
    async with InMemoryTransport() as transport:
        await transport.declare([CALL], mode="create")
        yield transport


async def declare(transport, **changes):
    await transport.declare([replace(CALL, **changes)], mode="reconcile")


async def publish(transport, count, **options):
    for number in range(1, count + 1):
        await transport.publish(message(number, **options))


async def sequences(transport):
    return [one.sequence for one in await transport.browse("CALL", limit=1_000)]


class Worker:
    """Handles messages with a function until it is stopped."""

    def __init__(self, transport, handle, spec=SPEC):
        self._transport, self._handle, self._spec = transport, handle, spec

    async def __aenter__(self):
        self._consumer = await self._transport.consume(self._spec)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        await self._consumer.stop()
        await self._task
        await self._consumer.close()

    async def _run(self):
        while batch := await self._consumer.receive():
            for delivery in batch:
                await self._handle(delivery)


class TestDrained:
    async def test_it_waits_for_what_handlers_publish(self, transport):
        seen = []

        async def handle(delivery):
            seen.append(delivery.sequence)
            await asyncio.sleep(0.001)
            if delivery.sequence < 20:
                await transport.publish(message(delivery.sequence + 1))
            await delivery.ack()

        async with Worker(transport, handle):
            await transport.publish(message(1))
            await transport.drained()
        assert seen == list(range(1, 21))

    async def test_it_skips_delays(self, transport):
        attempts = []

        async def handle(delivery):
            attempts.append(delivery.attempt)
            await (delivery.ack() if delivery.attempt == 6 else delivery.nak(3_600))

        start = asyncio.get_running_loop().time()
        before = transport.broker.now()
        async with Worker(transport, handle):
            await transport.publish(message(1))
            await transport.drained()
        assert attempts == [1, 2, 3, 4, 5, 6]
        assert transport.broker.now() - before >= 5 * 3_600
        assert asyncio.get_running_loop().time() - start < 3_600

    async def test_it_leaves_delays_if_it_is_told_to(self, transport):
        handled = asyncio.Event()

        async def handle(delivery):
            await delivery.nak(3_600)
            handled.set()

        async with Worker(transport, handle):
            await transport.publish(message(1))
            await handled.wait()
            with pytest.raises(TimeoutError, match="CALL/billing: 1 delivered and not settled"):
                await transport.drained(timeout=0.05, skip_delays=False)

    async def test_it_skips_what_a_crashed_process_had_in_hand(self, transport):
        other = InMemoryTransport(transport.broker)
        await other.open()
        for ordered in (False, True):
            spec = replace(SPEC, durable=f"ordered-{ordered}", ordered=ordered)
            crashing = await other.consume(spec)
            await transport.publish(message(f"one {ordered}"))
            assert await crashing.receive()
        other.crash()
        seen = []

        async def handle(delivery):
            seen.append(delivery.attempt)
            await delivery.ack()

        async with (
            Worker(transport, handle, replace(SPEC, durable="ordered-False")),
            Worker(transport, handle, replace(SPEC, durable="ordered-True", ordered=True)),
        ):
            await transport.drained()
        assert sorted(seen) == [1, 2, 2, 2]

    async def test_it_says_what_is_left(self, transport):
        consumer = await transport.consume(replace(SPEC, max_outstanding=1))
        await publish(transport, 3)
        await consumer.receive()
        with pytest.raises(TimeoutError, match="billing: 1 delivered and not settled, and more"):
            await transport.drained(timeout=0.05)
        await consumer.close()
        await transport.drained()  # nobody reads any more

    async def test_it_returns_at_once_without_work(self, transport):
        await transport.drained()
        await publish(transport, 3)
        await transport.drained()


class TestBounds:
    async def test_settled_messages_make_room(self):
        broker = InMemoryBroker(InMemoryConfig(max_messages=5))
        async with InMemoryTransport(broker) as transport:
            await transport.declare([CALL], mode="create")
            await publish(transport, 8)
            assert await sequences(transport) == [4, 5, 6, 7, 8]
            consumer = await transport.consume(SPEC)
            with pytest.raises(PublishRejected, match="max_messages"):
                await transport.publish(message(9))
            oldest, *_ = await consumer.receive()
            await oldest.ack()
            assert isinstance(await transport.publish(message(9)), Receipt)
            with pytest.raises(PublishRejected):
                await transport.publish(message(10))
            await consumer.close()

    async def test_ids_are_bounded(self):
        broker = InMemoryBroker(InMemoryConfig(max_messages=50))
        async with InMemoryTransport(broker) as transport:
            await transport.declare([CALL], mode="create")
            await publish(transport, 500)
            assert len(broker.streams["CALL"]._ids) <= 51

    async def test_nothing_is_kept_of_what_was_settled(self, transport):
        async def handle(delivery):
            await (delivery.ack() if delivery.attempt == 3 else delivery.nak())

        async with Worker(transport, handle):
            await publish(transport, 50)
            await transport.drained()
        (durable,) = transport.broker.durables()
        durable.next_due(transport.broker.now())
        assert (durable.unsettled, durable._ready, durable._later) == ({}, {}, [])
        assert not transport.broker._waiters

    @pytest.mark.parametrize("wrong", [{"max_messages": 0}, {"max_payload": -1}, {"typo": 1}])
    def test_wrong_bounds_are_refused(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InMemoryConfig(**wrong)


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "kept"),
        [
            ({"max_messages": 3}, [8, 9, 10]),
            ({"max_bytes": 25}, [9, 10]),
            ({"max_messages_per_subject": 1}, [10]),
        ],
    )
    async def test_the_oldest_goes(self, transport, limits, kept):
        await declare(transport, **limits)
        await publish(transport, 10, size=10)
        assert await sequences(transport) == kept

    async def test_subjects_have_limits_of_their_own(self, transport):
        await declare(transport, max_messages_per_subject=1)
        for number, word in enumerate("aabbcb"):
            await transport.publish(message(number, subject=f"evt.call.{word}"))
        assert await sequences(transport) == [2, 5, 6]

    async def test_what_is_too_old_goes(self, transport):
        await declare(transport, max_age=timedelta(hours=1))
        await publish(transport, 2)
        transport.broker.advance(3_000)
        await transport.publish(message(3))
        consumer = await transport.consume(SPEC)
        assert len(await consumer.receive()) == 3
        transport.broker.advance(1_000)
        assert await sequences(transport) == [3]
        await consumer.close()

    async def test_a_work_queue_keeps_what_is_not_settled(self):
        async with InMemoryTransport() as transport:
            await transport.declare([replace(CALL, retention="workqueue")], mode="create")
            await publish(transport, 3)
            consumer = await transport.consume(SPEC)
            first, second, _ = await consumer.receive()
            await first.ack()
            await second.term()
            assert await sequences(transport) == [3]
            await consumer.close()

    async def test_interest_keeps_what_a_consumer_needs(self):
        async with InMemoryTransport() as transport:
            await transport.declare([replace(CALL, retention="interest")], mode="create")
            await publish(transport, 2)
            assert await sequences(transport) == []
            one = await transport.consume(SPEC)
            two = await transport.consume(replace(SPEC, durable="search"))
            await transport.publish(message(3))
            for consumer, left in ((one, [3]), (two, [])):
                (delivery,) = await consumer.receive()
                await delivery.ack()
                assert await sequences(transport) == left
            await transport.close()


class TestFaults:
    async def test_publishing_fails_as_told(self, transport):
        with transport.failing(BrokerUnavailable("away"), subject="evt.call.failed.*"):
            with pytest.raises(BrokerUnavailable):
                await transport.publish(message(1, subject="evt.call.failed.now"))
            results = await transport.publish_many(
                [message(2), message(3, subject="evt.call.failed.now")]
            )
            assert [type(result) for result in results] == [Receipt, BrokerUnavailable]
        await transport.publish(message(1, subject="evt.call.failed.now"))
        assert await sequences(transport) == [1, 2]

    async def test_a_late_acknowledgement_counts(self, transport):
        spec = replace(SPEC, ack_wait=10)
        one, two = await transport.consume(spec), await transport.consume(spec)
        await transport.publish(message(1))
        (late,) = await one.receive()
        transport.broker.advance(11)
        (again,) = await two.receive()
        assert again.attempt == 2
        await late.ack()
        transport.broker.advance(11)
        await transport.publish(message(2))
        assert [delivery.sequence for delivery in await one.receive()] == [2]
        await one.close()
        await two.close()

    async def test_a_late_nak_does_not(self, transport):
        spec = replace(SPEC, ack_wait=10)
        one, two = await transport.consume(spec), await transport.consume(spec)
        await transport.publish(message(1))
        (late,) = await one.receive()
        transport.broker.advance(11)
        (again,) = await two.receive()
        await late.nak()
        await late.in_progress()
        await transport.publish(message(2))
        assert [delivery.sequence for delivery in await one.receive()] == [2]
        await again.ack()
        await one.close()
        await two.close()

    async def test_time_goes_forward_only(self, transport):
        with pytest.raises(ValueError, match="forward"):
            transport.broker.advance(-1)

    async def test_a_redelivery_comes_by_itself_when_its_time_has_come(self, transport):
        consumer = await transport.consume(SPEC)
        await transport.publish(message(1))
        (first,) = await consumer.receive()
        await first.nak(0.05)
        async with asyncio.timeout(30):
            (second,) = await consumer.receive()
        assert second.attempt == 2
        await consumer.close()
