"""Contract: what is settled how, and what comes again when."""

# ruff: noqa: S101 - tests, which say by their name what they check

import time
from datetime import UTC, datetime, timedelta

import pytest

from common.events.core._transport import Capability, Consumer, Delivery, Transport
from common.events.core.testing._base import (
    STREAM,
    ContractBase,
    counted,
    message,
    messages,
    numbers,
)

_CLOCKS = 0.95  # the broker's timers and ours need not agree to the last millisecond


class RedeliveringContract(ContractBase):
    """`Delivery` and ``ConsumerSpec.ack_wait``, ``max_deliver``."""

    async def test_a_delivery_says_what_it_is(self, transport: Transport) -> None:
        before = time.monotonic(), datetime.now(UTC)
        receipt = await transport.publish(message("1"))
        async with self.reading(transport, self.spec()) as consumer:
            got = await self.receive_one(consumer)
            assert (got.stream, got.sequence) == (STREAM, receipt.sequence)
            assert (got.attempt, got.exhausted, got.settled) == (1, False, False)
            assert before[0] <= got.received <= time.monotonic()
            assert got.timestamp.utcoffset() == timedelta(0)
            assert abs(got.timestamp - before[1]) < timedelta(seconds=self.patience)
            await self.ack(got)
            assert got.settled

    async def test_what_is_acknowledged_does_not_come_again(self, transport: Transport) -> None:
        spec = self.spec(ack_wait=self.ack_wait)
        await transport.publish_many(messages(3))
        async with self.reading(transport, spec) as consumer:
            await self.ack(*await self.receive(consumer, 3))
            await self.nothing_comes(consumer, waits=2)
        async with self.reading(transport, spec) as consumer:
            await self.nothing_comes(consumer)

    async def test_what_is_not_settled_comes_again_after_ack_wait(
        self, transport: Transport
    ) -> None:
        start = self.now()
        await transport.publish(message("1"))
        async with self.reading(transport, self.spec(ack_wait=self.ack_wait)) as consumer:
            first = await self.receive_one(consumer)
            again = await self.receive_one(consumer)
            assert self.now() - start >= self.ack_wait * _CLOCKS
            assert (again.data, again.sequence) == (first.data, first.sequence)
            assert (first.attempt, again.attempt) == (1, 2)
            await self.ack(again)
            await self.nothing_comes(consumer, waits=2)

    async def test_what_one_process_leaves_comes_to_another(
        self, transport: Transport, other: Transport
    ) -> None:
        spec = self.spec(ack_wait=self.ack_wait)
        await transport.publish(message("1"))
        async with self.reading(transport, spec) as hanging:
            assert (await self.receive_one(hanging)).attempt == 1
            await hanging.stop()
            async with self.reading(other, spec) as consumer:
                assert (await self.receive_one(consumer)).attempt == 2

    async def test_a_nak_brings_it_again_at_once(self, transport: Transport) -> None:
        await transport.publish(message("1"))
        async with self.reading(transport, self.spec(max_outstanding=1)) as consumer:
            for attempt in (1, 2, 3):
                got = await self.receive_one(consumer)
                assert (numbers([got]), got.attempt) == (["1"], attempt)
                await got.nak()
            await self.ack(await self.receive_one(consumer))
            await transport.publish(message("2"))
            assert numbers([await self.receive_one(consumer)]) == ["2"]

    async def test_the_broker_counts_attempts_over_processes(
        self, transport: Transport, other: Transport
    ) -> None:
        await transport.publish(message("1"))
        for attempt, process in enumerate((transport, other, transport), start=1):
            async with self.reading(process, self.spec()) as consumer:
                got = await self.receive_one(consumer)
                assert got.attempt == attempt

    @pytest.mark.parametrize("ack_wait", ["shorter", "longer"])
    async def test_a_nak_keeps_to_its_delay(self, transport: Transport, ack_wait: str) -> None:
        self.needs(Capability.DELAYED_RETRY)
        delay = self.ack_wait * 2
        spec = self.spec(ack_wait=self.long if ack_wait == "longer" else self.ack_wait)
        await transport.publish(message("1"))
        async with self.reading(transport, spec) as consumer:
            got = await self.receive_one(consumer)
            start = self.now()
            await got.nak(delay)
            await transport.publish(message("2"))
            meanwhile = await self.receive_one(consumer)
            assert numbers([meanwhile]) == ["2"], "others do not wait for it"
            await self.ack(meanwhile)
            again = await self.receive_one(consumer)
            assert self.now() - start >= delay * _CLOCKS
            assert (numbers([again]), again.attempt) == (["1"], 2)
            await self.ack(again)

    async def test_what_is_terminated_never_comes_again(self, transport: Transport) -> None:
        await transport.publish_many(messages(2))
        spec = self.spec(ack_wait=self.ack_wait)
        async with self.reading(transport, spec) as consumer:
            first, second = await self.receive(consumer, 2)
            await first.term("of no use")
            await self.ack(second)
            assert first.settled
            await self.nothing_comes(consumer, waits=2)
        async with self.reading(transport, spec) as consumer:
            await self.nothing_comes(consumer)

    async def test_in_progress_keeps_it_in_hand(self, transport: Transport) -> None:
        for _ in range(10):
            if await self._kept_in_hand(transport):
                return
        pytest.fail("in ten tries the machine never ran for long enough without a pause")

    async def _kept_in_hand(self, transport: Transport) -> bool:
        """Whether the try says something: after too long a pause it may rightly come again."""
        await transport.publish(message("1"))
        async with self.reading(transport, self.spec(ack_wait=self.ack_wait)) as consumer:
            delivery = await self.receive_one(consumer)
            start = last = self.now()
            longest = 0.0
            while self.now() - start < self.ack_wait * 3:
                await delivery.in_progress()
                longest, last = max(longest, self.now() - last), self.now()
                again = await self.arrival(consumer, self.ack_wait / 5)
                if again:
                    assert longest > self.ack_wait / 2, "it came again though it was in progress"
                    await self.ack(delivery, *again)
                    await self.drain(consumer)
                    return False
            assert not delivery.settled
            await delivery.ack()
            await self.nothing_comes(consumer, waits=2)
            return True

    async def test_only_the_first_settling_counts(self, transport: Transport) -> None:
        await transport.publish_many(messages(3))
        async with self.reading(transport, self.spec(ack_wait=self.ack_wait)) as consumer:
            acked, terminated, returned = await self.receive(consumer, 3)
            await self.ack(acked)
            await acked.nak()
            await terminated.term()
            await terminated.nak()
            await returned.nak()
            await self.ack(returned)
            await returned.term()
            again = await self.receive_one(consumer)
            assert (numbers([again]), again.attempt) == (["3"], 2)
            await self.ack(again)
            await acked.in_progress()
            await self.nothing_comes(consumer, waits=2)

    async def test_settling_after_the_end_does_nothing(self, transport: Transport) -> None:
        await transport.publish_many(messages(3))
        async with self.reading(transport, self.spec()) as consumer:
            got = await self.receive(consumer, 3)
        await got[0].ack()
        await got[1].term()
        await got[2].in_progress()
        await got[2].nak(self.long)
        async with self.reading(transport, self.spec()) as consumer:
            again = await self.receive(consumer, 3)
            assert sorted(numbers(again)) == counted(1, 3)
        await transport.close()
        await again[0].ack()
        await again[1].nak()

    @pytest.mark.parametrize("how", ["nak", "silence"])
    async def test_a_message_that_reached_max_deliver_comes_once_more_as_exhausted(
        self, transport: Transport, how: str
    ) -> None:
        sent = message("1", headers={"Kept": "yes"})
        receipt = await transport.publish(sent)
        ack_wait = self.long if how == "nak" else self.ack_wait
        spec = self.spec(ack_wait=ack_wait, max_deliver=2)
        async with self.reading(transport, spec) as consumer:
            for attempt in (1, 2):
                got = await self.receive_one(consumer)
                assert (got.attempt, got.exhausted) == (attempt, False)
                if how == "nak":
                    await got.nak()
            last = await self.receive_one(consumer)
            assert last.exhausted
            assert last.attempt >= 2
            assert (last.subject, last.data, last.stream, last.sequence) == (
                sent.subject,
                b"1",
                STREAM,
                receipt.sequence,
            )
            assert last.headers["Kept"] == last.header("Kept") == "yes"
            assert last.timestamp.utcoffset() == timedelta(0)
            await self.ack(last)
            await self.nothing_comes(consumer, waits=2)
        async with self.reading(transport, spec) as consumer:
            await self.nothing_comes(consumer)

    async def test_an_exhausted_message_that_could_not_be_stored_comes_again(
        self, transport: Transport
    ) -> None:
        await transport.publish(message("1"))
        async with self.reading(transport, self.spec(max_deliver=1)) as consumer:
            await (await self.receive_one(consumer)).nak()
            last = await self.receive_one(consumer)
            await last.nak()
            again = await self.receive_one(consumer)
            assert (last.exhausted, again.exhausted) == (True, True)
            assert again.data == b"1"
            await again.term("stored as a dead letter")
            await self.nothing_comes(consumer, waits=2)

    async def test_a_message_that_is_exhausted_while_nobody_reads_is_not_forgotten(
        self, transport: Transport, other: Transport
    ) -> None:
        spec = self.spec(max_deliver=2)
        await transport.publish(message("1"))
        for attempt in (1, 2):
            async with self.reading(transport, spec) as consumer:
                assert (await self.receive_one(consumer)).attempt == attempt
        async with self.reading(other, spec) as consumer:
            last = await self.receive_one(consumer)
            assert last.exhausted
            assert last.data == b"1"
            await self.ack(last)

    async def test_a_message_that_ends_every_process_is_exhausted_in_the_end(
        self, transport: Transport, other: Transport
    ) -> None:
        spec = self.spec(max_deliver=1, ack_wait=self.ack_wait)
        await transport.publish_many(messages(2))
        consumer = await self.opened(transport, spec)
        await self.receive(consumer, 2)
        await self.crash(transport)
        async with self.reading(other, spec) as survivor:
            got = await self.receive(survivor, 2)
            assert sorted(numbers(got)) == ["1", "2"]
            assert all(delivery.exhausted for delivery in got)
            for delivery in got:
                await self.ack(delivery)
            await self.nothing_comes(survivor, waits=2)

    async def test_a_message_without_limit_comes_for_ever(self, transport: Transport) -> None:
        await transport.publish(message("1"))
        async with self.reading(transport, self.spec()) as consumer:
            got = await self.receive_one(consumer)
            for attempt in range(2, 30):
                await got.nak()
                got = await self.receive_one(consumer)
                assert (got.attempt, got.exhausted) == (attempt, False)

    async def test_others_pass_a_message_that_fails(self, transport: Transport) -> None:
        await transport.publish_many(messages(20))
        done: list[str] = []
        async with self.reading(transport, self.spec(max_deliver=3, max_outstanding=2)) as consumer:
            while len(done) < 20:
                for delivery in await self.receive(consumer, 1):
                    await self._fail_third(consumer, delivery, done)
        assert sorted(done, key=int) == counted(1, 20)

    async def _fail_third(self, consumer: Consumer, delivery: Delivery, done: list[str]) -> None:
        assert consumer is not None
        if int(delivery.data) % 3 == 0 and not delivery.exhausted:
            await delivery.nak()
        else:
            done += numbers([delivery])
            await self.ack(delivery)
