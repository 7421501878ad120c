import asyncio
import json
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats_consuming import (
    Nats,
    connected,
    leader_of,
    nothing,
    receive,
    settled,
    take,
    until,
)

from common.events.nats._delivery import NatsDelivery
from common.testing import FaultProxy, NatsCluster, NatsServer

ORDERED: dict[str, Any] = {"ordered": True, "ack_wait": 3.0, "max_outstanding": 8}


def ordered(**changes: Any) -> dict[str, Any]:
    return ORDERED | changes


WORKER = Path(__file__).with_name("consume_worker.py")


@pytest.fixture
async def other(nats_url):
    async with connected(nats_url) as other:
        yield other


@asynccontextmanager
async def worker(url: str, acks: int):
    """Another process with the consumer."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(WORKER), url, str(acks), json.dumps(ORDERED),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lines(process, count: int) -> list[int]:
    async with asyncio.timeout(60):
        return [int((await process.stdout.readline()).split()[0]) for _ in range(count)]


async def test_one_of_two_gets_all_in_order(nats: Nats, other: Nats):
    consumers = [await nats.consume(**ORDERED), await other.consume(**ORDERED)]
    await nats.publish_many(60)
    found: list[tuple[int, int]] = []

    async def work(number: int) -> None:
        while batch := await consumers[number].receive():
            for delivery in batch:
                found.append((number, delivery.sequence))
                await delivery.ack()

    workers = [asyncio.create_task(work(number)) for number in (0, 1)]
    await settled(nats)
    assert [sequence for _, sequence in found] == list(range(1, 61))
    assert len({number for number, _ in found}) == 1
    for consumer in consumers:
        await consumer.stop()
    await asyncio.gather(*workers)


@pytest.mark.chaos
async def test_the_pin_is_kept_while_there_is_no_room_to_ask_for_more(nats: Nats, other: Nats):
    first = await nats.consume(**ordered(ack_wait=9.0))
    await nats.publish_many(20)
    held = await receive(first, 8)
    second = await other.consume(**ordered(ack_wait=9.0))
    end = time.monotonic() + 8  # several times the pin's time to live
    while time.monotonic() < end:
        for delivery in held:
            await delivery.in_progress()
        await nothing(second, 0.25)
    for delivery in held:
        await delivery.ack()
    assert [d.sequence for d in await take(first, 12)] == list(range(9, 21))
    await settled(nats)


@pytest.mark.chaos
async def test_keeping_the_pin_does_not_hide_that_requests_are_lost(nats: Nats, other: Nats):
    """As by a connection between servers that was away for a moment."""
    consumer = await nats.consume(**ordered(ack_wait=9.0))
    await other.publish_many(1)
    [delivery] = await receive(consumer, 1)
    client, subscription = nats.connection.nc, consumer.pull._subscription
    assert subscription is not None
    [sid] = [
        sid
        for sid, sink in client.sinks.items()
        if getattr(sink, "__self__", None) is consumer.pull
    ]
    client.write(b"UNSUB %d\r\n" % sid)
    await nats.connection.flush()
    await other.publish_many(1, start=1)  # finds that nobody listens: the requests are gone
    await asyncio.sleep(0.5)
    client.write(b"SUB %b  %d\r\n" % (subscription.subject.encode(), sid))
    await delivery.ack()
    assert [each.sequence for each in await take(consumer, 1)] == [2]


async def test_the_pin_is_kept_while_there_is_nothing_to_do(nats: Nats, other: Nats):
    first = await nats.consume(**ordered(ack_wait=9.0))
    await nats.publish("s.a")
    await take(first, 1)
    second = await other.consume(**ordered(ack_wait=9.0))
    await nothing(second, 8)  # several times the pin's time to live
    await nats.publish("s.b")
    assert [d.sequence for d in await take(first, 1)] == [2]
    await nothing(second, 0.3)


async def test_closing_hands_over_at_once_and_in_order(nats: Nats, other: Nats):
    first = await nats.consume(**ordered(ack_wait=30.0))
    second = await other.consume(**ordered(ack_wait=30.0))
    await nats.publish("s.a")
    await take(first, 1)
    await nats.publish_many(20)
    await receive(first, 8)
    started = time.monotonic()
    await first.close()
    found = await take(second, 20)
    assert time.monotonic() - started < 10  # and not after the pin's time, or ack_wait
    assert [delivery.sequence for delivery in found] == list(range(2, 22))
    await settled(nats)


async def test_who_stops_unsure_of_the_pin_takes_it_from_nobody(
    nats: Nats, nats_url: str, monkeypatch
):
    unpinned: list[bytes] = []
    await nats.connection.subscribe(
        "$JS.API.CONSUMER.UNPIN.>", lambda *got: unpinned.append(got[0])
    )
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        first = await away.consume(**ORDERED)
        await nats.publish_many(4)
        await take(first, 4)
        second = await nats.consume(**ORDERED)
        proxy.refuse()
        proxy.cut()
        await nats.publish_many(4, start=4)
        found = await receive(second, 4)  # after the pin's time

        looking = asyncio.Event()

        async def never() -> None:
            looking.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(first.pull, "_ensure", never)
        proxy.heal()
        await asyncio.wait_for(looking.wait(), 60)
        await first.stop()
        await away.connection.flush()
        await nats.connection.flush()
        assert not unpinned
        for delivery in found:
            await delivery.ack()
        await settled(nats)
        await second.stop()
        await nats.connection.flush()
        assert len(unpinned) == 1


async def test_nothing_overtakes_what_a_stopped_process_still_has_in_hand(nats: Nats, other: Nats):
    first = await nats.consume(**ordered(ack_wait=30.0))
    await nats.publish_many(20)
    held = await receive(first, 8)
    for delivery in held[:5]:
        await delivery.ack()
    await first.stop()
    left = held[5:]
    second = await other.consume(**ordered(ack_wait=30.0))
    await nothing(second, 1.5)
    await left[1].ack()
    await nothing(second, 0.7)
    await left[0].ack()
    await left[2].nak()  # comes again, as the first of all
    found = await take(second, 1 + 20 - max(d.sequence for d in held))
    assert [d.sequence for d in found] == sorted(d.sequence for d in found)
    assert found[0].sequence == left[2].sequence
    await settled(nats)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_takes_over_from_a_process_that_is_killed_or_stopped(
    nats: Nats, nats_url, signum
):
    async with worker(nats_url, acks=5) as process:
        await nats.publish_many(30)
        first = await lines(process, 13)  # five acknowledged, eight in hand
        assert first == list(range(1, 14))

        async def acknowledged() -> bool:
            return (await nats.info())["ack_floor"]["stream_seq"] == 5

        await until(acknowledged)
        second = await nats.consume(**ORDERED)
        await nothing(second, 0.5)
        process.send_signal(signum)
        found = await take(second, 25)
        assert [delivery.sequence for delivery in found] == list(range(6, 31))
        assert min(d.attempt for d in found[:8]) == 2
        await settled(nats)
        if signum == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            await nats.publish_many(10, start=30)
            found = await take(second, 10)  # it does not come back as a second reader
            assert [delivery.sequence for delivery in found] == list(range(31, 41))
            # What it lost while it slept, a fresh start gives it: it takes over in its turn.
            await second.close()
            await nats.publish("s.last")
            while (await lines(process, 1)) != [41]:
                pass


async def test_a_predecessor_with_more_room_does_not_lock_out_its_successor(
    nats: Nats, other: Nats
):
    first = await nats.consume(**ordered(max_outstanding=20))
    await nats.publish_many(40)
    held = await receive(first, 20)
    second = await other.consume(**ordered(max_outstanding=3))
    await first.stop()
    await asyncio.sleep(0.3)
    for delivery in reversed(held):
        await delivery.nak()
    found: list[int] = []
    async with asyncio.timeout(60):
        while len(found) < 40:
            for delivery in await second.receive():
                found.append(delivery.sequence)
                await delivery.ack()
    assert found == list(range(1, 41))


@pytest.mark.chaos
async def test_order_is_kept_while_processes_come_and_go(nats: Nats, nats_url):
    """No message is handled before one which precedes it was settled or handled."""
    publisher = asyncio.create_task(nats.publish_many(300))
    handled: list[int] = []
    turn = 0
    while len(set(handled)) < 300:
        turn += 1
        async with connected(nats_url) as visitor:
            consumer = await visitor.consume(**ordered(ack_wait=30.0))
            for _ in range(3):
                try:
                    async with asyncio.timeout(5):
                        batch = await consumer.receive()
                except TimeoutError:
                    break
                for delivery in batch[: 1 + turn % 5]:
                    handled.append(delivery.sequence)
                    await delivery.ack()
                if len(batch) > 1 + turn % 5:
                    break  # leaves with messages in hand
    await publisher
    assert handled == list(range(1, 301))


async def keep(delivery) -> None:
    while True:
        await delivery.in_progress()
        await asyncio.sleep(0.2)


@pytest.mark.chaos
async def test_nothing_overtakes_what_was_lost_on_its_way_to_the_pinned_process(
    nats: Nats, nats_url: str
):
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as victim:
        consumer = await victim.consume(**ordered(max_outstanding=20, ack_wait=6.0))
        await nats.publish_many(2)
        [done, in_hand] = await receive(consumer, 2)
        await done.ack()
        keeping = asyncio.create_task(keep(in_hand))
        proxy.drop(direction="downstream")
        await nats.publish_many(8, start=2)

        async def delivered() -> bool:
            return (await nats.info())["delivered"]["stream_seq"] == 10

        await until(delivered)
        proxy.heal()  # resets the connection, which lost what was on its way
        await nats.publish_many(10, start=10)
        order: dict[int, None] = {}
        async with asyncio.timeout(60):
            while len(order) < 18:
                for delivery in await consumer.receive():
                    order[delivery.sequence] = None
                    await delivery.ack()
        assert list(order) == list(range(3, 21))
        keeping.cancel()
        await in_hand.ack()  # which kept nobody waiting
        await settled(nats)


@pytest.mark.chaos
async def test_what_another_settles_late_is_not_taken_for_what_it_still_has(
    nats: Nats, nats_url: str
):
    """The numbers agree then, though a message is missing."""
    async with (
        FaultProxy(nats_url) as proxy,
        connected(nats_url) as other,
        connected(proxy.url(nats_url)) as victim,
    ):
        crashed = await victim.consume(**ordered(ack_wait=6.0))
        await nats.publish_many(4)
        held = await receive(crashed, 4)
        proxy.refuse()
        proxy.cut()
        replies = [each.reply.decode() for each in held if isinstance(each, NatsDelivery)]
        first, last = replies[0], replies[3]

        async def keep_last() -> None:
            while True:
                nats.connection.publish(last, b"+WPI")
                await asyncio.sleep(0.2)

        keeping = asyncio.create_task(keep_last())
        consumer = await other.consume(**ordered(ack_wait=6.0))
        await nats.publish_many(4, start=4)

        async def came_again() -> bool:
            pin = consumer.pull.pin
            return pin is not None and set(pin.held) == {1, 2, 3, 5, 6, 7, 8}

        await until(came_again)
        await nothing(consumer, 0.3)
        nats.connection.publish(first, b"+ACK")
        await nothing(consumer, 2.5)
        keeping.cancel()
        got = await take(consumer, 7)
        assert [delivery.sequence for delivery in got] == list(range(2, 9))
        await settled(nats)


async def test_a_server_that_forgot_deliveries_lets_nothing_overtake():
    """It was killed before it wrote down whom it gave messages, and gives them to another."""
    async with (
        NatsServer() as server,
        FaultProxy(server.url) as proxy,
        connected(server.url) as other,
        connected(proxy.url(server.url)) as victim,
    ):
        await victim.stream()
        first = await victim.consume(**ordered(ack_wait=6.0))
        await other.publish_many(1)
        [oldest] = await receive(first, 1)
        await asyncio.sleep(0.5)  # this delivery is written down
        await other.publish_many(3, start=1)
        later = await receive(first, 3)
        assert isinstance(oldest, NatsDelivery)
        proxy.refuse()
        proxy.cut()
        server.kill()
        await server.restart()
        reply = oldest.reply.decode()
        second = await other.consume(**ordered(ack_wait=6.0))

        async def keep_oldest() -> None:
            while True:
                other.connection.publish(reply, b"+WPI")
                await asyncio.sleep(0.2)

        keeping = asyncio.create_task(keep_oldest())

        async def taken_over() -> bool:
            pin = second.pull.pin
            return pin is not None and set(pin.held) == {2, 3, 4}

        await until(taken_over)
        proxy.heal()
        await victim.connection.wait_connected()
        for delivery in later:
            await delivery.ack()
        await nothing(second, 2.5)
        keeping.cancel()
        await oldest.ack()
        await first.stop()
        assert [each.sequence for each in await take(second, 4)] == [1, 2, 3, 4]
        await settled(other)


async def test_what_is_held_for_too_long_keeps_its_place(nats: Nats, nats_url: str):
    async with connected(nats_url) as other:
        first = await nats.consume(**ordered())
        await nats.publish_many(1)
        [in_hand] = await receive(first, 1)
        await first.stop()
        consumer = await other.consume(**ordered())
        await nats.publish_many(3, start=1)
        pin = consumer.pull.pin
        assert pin is not None

        async def all_held() -> bool:
            return len(pin.held) == 3

        await until(all_held)
        pin.held[2].deadline = 0.0
        pin._open(consumer.pull)
        assert [each.sequence for each in await receive(consumer, 3)] == [2, 3, 4]
        await in_hand.ack()


@pytest.mark.chaos
async def test_order_is_kept_when_the_leader_of_the_consumer_dies():
    async with (
        NatsCluster(3, sync_interval="always") as cluster,
        connected(cluster.urls) as nats,
        connected(cluster.urls) as other,
    ):
        await nats.stream(num_replicas=3)
        await nats.publish_many(200)
        consumers = [await each.consume(**ordered(ack_wait=4.0)) for each in (nats, other)]
        handled: list[int] = []

        async def work(consumer) -> None:
            while batch := await consumer.receive():
                for delivery in batch:
                    await asyncio.sleep(0.002)
                    handled.append(delivery.sequence)
                    await delivery.ack()

        workers = [asyncio.create_task(work(consumer)) for consumer in consumers]
        async with asyncio.timeout(100):
            for count in (40, 200):
                while len(set(handled)) < count:
                    await asyncio.sleep(0.01)
                if count == 40:
                    (await leader_of(nats, cluster)).kill()
        # Some come again, their acknowledgement was lost: but none comes before those before it.
        assert list(dict.fromkeys(handled)) == list(range(1, 201))
        for consumer in consumers:
            await consumer.stop()
        await asyncio.gather(*workers)
