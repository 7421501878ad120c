"""Contract: publishing."""

# ruff: noqa: S101 - tests, which say by their name what they check

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from common.context import bind
from common.errors import MessageBusError
from common.events.core._errors import (
    MessageTooLarge,
    MissingStream,
    PublishRejected,
    PublishTimeout,
    TransportClosed,
)
from common.events.core._transport import Capability, Outgoing, Receipt, Transport
from common.events.core.testing._base import (
    SPEC,
    STREAM,
    ContractBase,
    NewTransport,
    counted,
    message,
    messages,
    numbers,
)

_HOSTILE = "1\r\nEvil: yes\r\n\r\nEvil"


class PublishingContract(ContractBase):
    """`Transport.publish` and `Transport.publish_many`."""

    async def test_an_acknowledgement_says_where_the_message_is_stored(
        self, transport: Transport
    ) -> None:
        sent = messages(3)
        receipts = [await transport.publish(one) for one in sent]
        assert [receipt.id for receipt in receipts] == [one.id for one in sent]
        assert {(receipt.stream, receipt.duplicate) for receipt in receipts} == {(STREAM, False)}
        places = [receipt.sequence for receipt in receipts]
        assert places == sorted(places)
        async with self.reading(transport, self.spec()) as consumer:
            got = await self.receive(consumer, 3)
            assert [delivery.sequence for delivery in got] == places

    async def test_body_subject_and_headers_arrive_as_they_were_sent(
        self, transport: Transport
    ) -> None:
        bodies = [b"", bytes(range(256)), b"\r\n\r\nPUB x 1\r\n", b"x" * 100_000]
        headers = {"Plain": "value", "spaces": "a b", "colon": "a: b", "Empty-Of-Sense": "0"}
        for number, body in enumerate(bodies):
            await transport.publish(message(body, subject=f"n{number}", headers=headers))
        async with self.reading(transport, self.spec()) as consumer:
            got = await self.receive(consumer, len(bodies))
        assert [delivery.data for delivery in got] == bodies
        assert [delivery.subject for delivery in got] == [f"evt.contract.n{n}" for n in range(4)]
        for delivery in got:
            assert headers.items() <= dict(delivery.headers).items()
            assert {name: delivery.header(name) for name in headers} == headers
            assert delivery.header("Spaces-Of-Nobody") is None

    @pytest.mark.parametrize("place", ["id", "value", "name"])
    async def test_line_breaks_cannot_add_headers(self, transport: Transport, place: str) -> None:
        headers = {"value": {"X": _HOSTILE}, "name": {_HOSTILE: "x"}}.get(place, {})
        sent = message("hostile", headers=headers)
        if place == "id":
            sent = replace(sent, id=_HOSTILE)
        try:
            await transport.publish(sent)
        except (MessageBusError, ValueError):
            sent = message("refused")
            await transport.publish(sent)
        async with self.reading(transport, self.spec()) as consumer:
            delivery = await self.receive_one(consumer)
        assert delivery.data == sent.data
        assert not [name for name in delivery.headers if name.lower() == "evil"]

    async def test_a_known_id_is_not_stored_again(
        self, transport: Transport, other: Transport
    ) -> None:
        self.needs(Capability.DEDUPLICATION)
        sent = message("1")
        first = await transport.publish(sent)
        again = [
            await transport.publish(sent),
            await other.publish(replace(sent, data=b"different", subject="evt.contract.two")),
            *await transport.publish_many([sent]),
        ]
        assert not first.duplicate
        for receipt in again:
            assert isinstance(receipt, Receipt)
            assert (receipt.duplicate, receipt.sequence) == (True, first.sequence)
        await transport.publish(message("2"))
        async with self.reading(transport, self.spec()) as consumer:
            assert numbers(await self.receive(consumer, 2)) == ["1", "2"]

    async def test_ids_are_known_to_one_stream_only(self, transport: Transport) -> None:
        self.needs(Capability.DEDUPLICATION)
        await transport.declare(
            [replace(SPEC, name="SECOND", subjects=("evt.second.>",))], mode="create"
        )
        sent = message("1")
        await transport.publish(sent)
        receipt = await transport.publish(replace(sent, stream="SECOND", subject="evt.second.one"))
        assert not receipt.duplicate

    async def test_ids_are_forgotten_after_the_window(self, transport: Transport) -> None:
        self.needs(Capability.DEDUPLICATION)
        window = timedelta(seconds=self.duplicate_window)
        await transport.declare(
            [replace(SPEC, name="SECOND", subjects=("evt.second.>",), duplicate_window=window)],
            mode="create",
        )
        sent = Outgoing("evt.second.one", b"", id="1", stream="SECOND")
        await transport.publish(sent)

        async def is_stored_again() -> bool:
            return not (await transport.publish(sent)).duplicate

        await self.eventually(is_stored_again, earliest=self.duplicate_window)

    async def test_messages_of_one_publisher_keep_their_order(self, transport: Transport) -> None:
        async def publisher(name: str) -> None:
            for number in range(40):
                await transport.publish(message(f"{name} {number}"))

        await asyncio.gather(*(publisher(name) for name in "abc"))
        async with self.reading(transport, self.spec(max_outstanding=200)) as consumer:
            got = numbers(await self.receive(consumer, 120))
        for name in "abc":
            assert [one for one in got if one[0] == name] == [f"{name} {n}" for n in range(40)]

    async def test_a_batch_keeps_its_order_and_has_a_result_for_each(
        self, transport: Transport
    ) -> None:
        sent = messages(2_500, key="k")
        results = await transport.publish_many(sent)
        assert all(isinstance(result, Receipt) for result in results)
        assert [getattr(result, "id", None) for result in results] == [one.id for one in sent]
        async with self.reading(transport, self.spec(max_outstanding=500)) as consumer:
            got: list[str] = []
            while len(got) < len(sent):
                batch = await self.receive(consumer, 1)
                got += numbers(batch)
                for delivery in batch:
                    await delivery.ack()
        assert got == counted(1, 2_500)

    async def test_what_fails_in_a_batch_is_a_result(self, transport: Transport) -> None:
        sent = [
            message("1"),
            Outgoing("evt.nobody.takes.this", b"", id="nowhere", stream="MISSING"),
            message(b"x" * (self.max_payload + 1)),
            message("2"),
        ]
        results = await transport.publish_many(sent)
        assert [type(result) for result in results] == [
            Receipt,
            MissingStream,
            MessageTooLarge,
            Receipt,
        ]
        async with self.reading(transport, self.spec()) as consumer:
            assert numbers(await self.receive(consumer, 2)) == ["1", "2"]

    async def test_an_empty_batch_is_nothing(self, transport: Transport) -> None:
        assert await transport.publish_many([]) == []

    async def test_many_tasks_publish_at_once(self, transport: Transport) -> None:
        receipts = await asyncio.gather(*(transport.publish(one) for one in messages(1_500)))
        assert len({receipt.sequence for receipt in receipts}) == 1_500

    @pytest.mark.parametrize(
        "sent",
        [
            Outgoing("evt.nobody.takes.this", b"", id="lost-1", stream="MISSING"),
            Outgoing("evt.nobody.takes.this", b"", id="lost-2", stream=STREAM),
        ],
        ids=["stream", "subject"],
    )
    async def test_publishing_where_no_stream_is_fails(
        self, transport: Transport, sent: Outgoing
    ) -> None:
        with pytest.raises(MissingStream):
            await transport.publish(sent, timeout=self.patience)
        assert isinstance(await transport.publish(message()), Receipt)

    async def test_publishing_to_another_stream_than_the_subjects_fails(
        self, transport: Transport
    ) -> None:
        with pytest.raises((MissingStream, PublishRejected)):
            await transport.publish(message(stream="MISSING"), timeout=self.patience)

    async def test_too_large_a_message_is_refused_and_nothing_else_is_disturbed(
        self, transport: Transport
    ) -> None:
        with pytest.raises(MessageTooLarge) as caught:
            await transport.publish(message(b"x" * (self.max_payload + 1)))
        assert caught.value.size is not None
        assert caught.value.size > self.max_payload
        assert caught.value.limit is not None
        assert not caught.value.retryable
        await transport.publish(message("1"))
        async with self.reading(transport, self.spec()) as consumer:
            assert numbers([await self.receive_one(consumer)]) == ["1"]

    async def test_nothing_is_published_without_time(self, transport: Transport) -> None:
        with pytest.raises(PublishTimeout):
            await transport.publish(message(), timeout=0.0)
        with bind(deadline=time.monotonic() - 1), pytest.raises(PublishTimeout):
            await transport.publish(message())
        # A batch's time counts from when a message is sent, so the acknowledgement may win.
        (result,) = await transport.publish_many([message()], timeout=0.0)
        assert isinstance(result, PublishTimeout | Receipt)

    async def test_what_is_not_open_refuses(self, new_transport: NewTransport) -> None:
        transport = new_transport()
        await self._refuses(transport)
        await transport.open()
        await transport.open()
        assert (await transport.health()).ok
        await transport.close()
        await transport.close()
        await self._refuses(transport)

    async def _refuses(self, transport: Transport) -> None:
        with pytest.raises(TransportClosed):
            await transport.publish(message())
        with pytest.raises(TransportClosed):
            await transport.publish_many([message()])
        with pytest.raises(TransportClosed):
            await transport.consume(self.spec())
        with pytest.raises(TransportClosed):
            await transport.declare([SPEC], mode="create")
        assert not (await transport.health()).ok

    async def test_every_publish_has_a_result_when_the_transport_closes(
        self, transport: Transport, other: Transport
    ) -> None:
        sent = messages(500)
        tasks = [asyncio.create_task(transport.publish(one)) for one in sent]
        batch = messages(500)
        task_of_batch = asyncio.create_task(transport.publish_many(batch))
        await asyncio.sleep(0)
        await transport.close()
        async with asyncio.timeout(self.patience):
            results: list[object] = [*await asyncio.gather(*tasks, return_exceptions=True)]
            (of_batch,) = await asyncio.gather(task_of_batch, return_exceptions=True)
        if isinstance(of_batch, list):
            assert len(of_batch) == len(batch)
            results += of_batch
        else:
            assert isinstance(of_batch, MessageBusError)
        for result in results:
            assert isinstance(result, Receipt | MessageBusError)
        acknowledged = {result.id for result in results if isinstance(result, Receipt)}
        stored = {one.data for one in await other.browse(STREAM, limit=10_000)}
        for one in [*sent, *batch]:
            if one.id in acknowledged:
                assert one.data in stored

    async def test_health_answers(self, transport: Transport) -> None:
        health = await transport.health()
        assert health.ok
        assert health.transport == transport.name
        assert health.error is None
