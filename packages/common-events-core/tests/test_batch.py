"""The batcher: by number and by time, bounded, and no message without a result."""

import asyncio

import pytest
from pydantic import ValidationError

from common.context import bind, observe
from common.domain import Event, PublishNotAllowedError, Registry, Stream, Streams
from common.events.core import (
    Codec,
    InMemoryTransport,
    Publisher,
    PublishRejected,
    StreamSpec,
    TransportClosed,
)

REGISTRY = Registry()
STREAMS = Streams(
    [Stream("LAMP", ("lamp",)), Stream("DOOR", ("door",))], services={"lamps": ["LAMP"]}
)
NEVER = 60.0


class Lit(Event, type="lamp.lit", key="lamp", registry=REGISTRY):
    lamp: str


class Opened(Event, type="door.opened", registry=REGISTRY):
    door: str


class Gate(InMemoryTransport):
    """Lets batches through while it is open, and remembers their sizes."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches = []

    async def publish_many(self, messages, *, timeout=None):  # noqa: ASYNC109
        self.batches.append([message.key for message in messages])
        await self.gate.wait()
        return await super().publish_many(messages, timeout=timeout)


@pytest.fixture
async def transport():
    async with Gate() as transport:
        await transport.declare([StreamSpec.of(stream) for stream in STREAMS], mode="create")
        yield transport


@pytest.fixture
def publisher(transport):
    codec = Codec(source="/lamps", registry=REGISTRY)
    return Publisher(transport, codec, service="lamps", streams=STREAMS)


def lamps(*numbers):
    return [Lit(lamp=str(number)) for number in numbers]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_full_batch_leaves_at_once(transport, publisher):
    async with publisher.batcher(batch_size=3, flush_interval=NEVER) as batcher:
        results = [await batcher.add(lamp) for lamp in lamps(1, 2, 3, 4)]
        done = await asyncio.gather(*results[:3])
        assert [each.receipt.sequence for each in done] == [1, 2, 3]
        assert not results[3].done() or transport.batches != [["1", "2", "3"]]
    assert (await results[3]).ok
    assert sum(map(len, transport.batches)) == 4


async def test_a_batch_that_is_not_full_leaves_in_time(transport, publisher):
    async with publisher.batcher(batch_size=100, flush_interval=0.01) as batcher:
        for lamp in lamps(1, 2):
            async with asyncio.timeout(10):
                assert (await (await batcher.add(lamp))).ok
    assert transport.batches == [["1"], ["2"]]


async def test_flush_waits_for_all_that_was_added(publisher):
    async with publisher.batcher(flush_interval=NEVER) as batcher:
        results = [await batcher.add(lamp) for lamp in lamps(1, 2, 3)]
        assert not any(result.done() for result in results)
        await batcher.flush()
        assert all(result.done() for result in results)
        await batcher.flush()


async def test_leaving_the_block_publishes_what_is_left(publisher):
    async with publisher.batcher(flush_interval=NEVER) as batcher:
        results = [await batcher.add(lamp) for lamp in lamps(1, 2, 3)]
    assert [result.result().ok for result in results] == [True] * 3
    await batcher.close()


async def test_the_order_is_kept_over_batches(transport, publisher):
    async with publisher.batcher(batch_size=7, flush_interval=0.001, max_buffered=20) as batcher:
        for lamp in lamps(*range(200)):
            await batcher.add(lamp)
    assert [key for batch in transport.batches for key in batch] == [
        str(number) for number in range(200)
    ]
    assert max(map(len, transport.batches)) <= 7


async def test_a_full_buffer_makes_adding_wait(transport, publisher):
    transport.gate.clear()
    async with publisher.batcher(batch_size=2, flush_interval=NEVER, max_buffered=4) as batcher:
        for lamp in lamps(1, 2, 3, 4):
            await batcher.add(lamp)
        waiting = asyncio.create_task(batcher.add(Lit(lamp="5")))
        given_up = asyncio.create_task(batcher.add(Lit(lamp="6")))
        await until(lambda: transport.batches)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        given_up.cancel()
        transport.gate.set()
        result = await waiting
        await batcher.flush()
        assert result.result().ok
    assert [key for batch in transport.batches for key in batch] == ["1", "2", "3", "4", "5"]


async def test_the_context_is_that_of_the_adding(transport, publisher):
    async with publisher.batcher(flush_interval=NEVER) as batcher:
        with bind(correlation_id="r-1", tenant="t-1"):
            await batcher.add(Lit(lamp="1"))
        with bind(correlation_id="r-2"):
            await batcher.add(Lit(lamp="2"))
    first, second = await transport.browse("LAMP")
    assert b'"correlationid":"r-1"' in first.data
    assert b'"tenant":"t-1"' in first.data
    assert b'"correlationid":"r-2"' in second.data
    assert b"tenant" not in second.data


async def test_what_may_not_leave_is_refused_when_it_is_added(publisher):
    async with publisher.batcher() as batcher:
        with pytest.raises(PublishNotAllowedError):
            await batcher.add(Opened(door="1"))
        with pytest.raises(ValueError, match="message id"):
            await batcher.add(Lit(lamp="1"), id="bad\nid")


async def test_failures_are_results_and_are_counted(transport, publisher):
    class Recorder:
        ended = ()

        def on_start(self, op):
            pass

        def on_end(self, op):
            self.ended += ((op.name, op.outcome, op.error_code),)

    recorder = Recorder()
    with observe(recorder), transport.failing(PublishRejected("no")):
        async with publisher.batcher(flush_interval=NEVER) as batcher:
            result = await batcher.add(Lit(lamp="1"), id="m-1")
    failed = result.result()
    assert (failed.ok, failed.message_id, failed.type) == (False, "m-1", "lamp.lit")
    assert isinstance(failed.error, PublishRejected)
    assert recorder.ended == (("batch", "error", "PUBLISH_REJECTED"),)


@pytest.mark.parametrize("error", [TransportClosed("closed"), RuntimeError("bug")])
async def test_a_transport_that_raises_fails_its_batch_only(transport, publisher, error):
    publish_many, calls = transport.publish_many, []

    async def broken(messages, *, timeout=None):  # noqa: ASYNC109
        calls.append(messages)
        if len(calls) == 1:
            raise error
        return await publish_many(messages, timeout=timeout)

    transport.publish_many = broken
    async with publisher.batcher(batch_size=1, flush_interval=NEVER, max_buffered=1) as batcher:
        first = await (await batcher.add(Lit(lamp="1")))
        second = await (await batcher.add(Lit(lamp="2")))
    assert (first.ok, second.ok) == (False, True)


async def test_a_result_nobody_wants_any_more_does_no_harm(transport, publisher):
    async with publisher.batcher(flush_interval=NEVER, max_buffered=2) as batcher:
        (await batcher.add(Lit(lamp="1"))).cancel()
        kept = await batcher.add(Lit(lamp="2"))
        await batcher.flush()
        assert kept.result().ok
        await batcher.add(Lit(lamp="3"))
        await batcher.add(Lit(lamp="4"))
    assert len(await transport.browse("LAMP")) == 4


async def test_cancelling_the_end_leaves_nobody_without_a_result(transport, publisher):
    transport.gate.clear()
    batcher = await publisher.batcher(
        batch_size=2, flush_interval=NEVER, max_buffered=5
    ).__aenter__()
    results = [await batcher.add(lamp) for lamp in lamps(1, 2, 3, 4, 5)]
    waiting = asyncio.create_task(batcher.add(Lit(lamp="6")))
    await until(lambda: transport.batches)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert all(result.done() and not result.result().ok for result in results)
    with pytest.raises(TransportClosed):
        await waiting
    with pytest.raises(TransportClosed):
        await batcher.add(Lit(lamp="7"))
    await batcher.close()


async def test_cancelling_a_flush_loses_nothing(transport, publisher):
    transport.gate.clear()
    async with publisher.batcher(flush_interval=NEVER) as batcher:
        result = await batcher.add(Lit(lamp="1"))
        flushing = asyncio.create_task(batcher.flush())
        await until(lambda: transport.batches)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        transport.gate.set()
        assert (await result).ok


async def test_a_batcher_is_used_once_and_only_while_open(publisher):
    batcher = publisher.batcher()
    with pytest.raises(TransportClosed, match="async with"):
        await batcher.add(Lit(lamp="1"))
    await batcher.close()
    async with publisher.batcher() as batcher:
        pass
    with pytest.raises(TransportClosed):
        await batcher.add(Lit(lamp="1"))
    with pytest.raises(TransportClosed, match="another"):
        await batcher.__aenter__()


def test_sizes_are_checked(publisher):
    with pytest.raises(ValidationError, match="batch_size"):
        publisher.batcher(batch_size=0)
