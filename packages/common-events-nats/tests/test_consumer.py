import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from nats_consuming import Nats, connected, nothing, receive, settled, spec, take, until

from common.events.core._errors import ConsumerLost, DeclarationConflict, MissingStream
from common.events.nats import _pull
from common.events.nats._consumer_config import ensure
from common.events.nats._errors import NatsPermissionError
from common.testing import FaultProxy, NatsServer


async def test_a_delivery_says_what_was_published(nats: Nats):
    before = datetime.now(UTC)
    await nats.publish("s.a", b"\x00body\r\n", Nats_Msg_Id="17", Other="ä b")
    [delivery] = await receive(await nats.consume(), 1)
    assert (delivery.subject, delivery.data) == ("s.a", b"\x00body\r\n")
    assert delivery.headers == {"Nats-Msg-Id": "17", "Other": "ä b"}
    assert (delivery.stream, delivery.sequence, delivery.attempt) == ("S", 1, 1)
    assert abs(delivery.timestamp - before) < timedelta(seconds=30)
    assert delivery.timestamp.tzinfo is UTC
    assert abs(delivery.received - time.monotonic()) < 30
    assert not delivery.exhausted
    assert not delivery.settled


async def test_messages_come_in_order_and_are_gone_once_acknowledged(nats: Nats):
    await nats.publish_many(200)
    consumer = await nats.consume(max_outstanding=16)
    found = await take(consumer, 200)
    assert [delivery.sequence for delivery in found] == list(range(1, 201))
    await settled(nats)
    assert all(delivery.settled for delivery in found)


async def test_only_the_subjects_asked_for_come(nats: Nats):
    for subject in ("s.a.1", "s.b.1", "s.c.1", "s.a.2"):
        await nats.publish(subject)
    consumer = await nats.consume(subjects=("s.a.>", "s.c.*"))
    assert [d.subject for d in await take(consumer, 3)] == ["s.a.1", "s.c.1", "s.a.2"]
    await nothing(consumer, 0.2)


async def test_a_new_consumer_starts_with_all_or_with_what_is_new(nats: Nats):
    await nats.publish("s.old")
    everything = await nats.consume("all", deliver="all")
    new = await nats.consume("new", deliver="new")
    await nats.publish("s.new")
    assert [d.subject for d in await take(everything, 2)] == ["s.old", "s.new"]
    assert [d.subject for d in await take(new, 1)] == ["s.new"]


async def test_two_consumers_of_a_durable_share_and_other_durables_get_all(nats: Nats, nats_url):
    async with connected(nats_url) as other:
        first = await nats.consume("shared", max_outstanding=4)
        second = await other.consume("shared", max_outstanding=4)
        third = await other.consume("own")
        await nats.publish_many(40)
        found: list[tuple[int, int]] = []

        async def work(number: int, consumer) -> None:
            while batch := await consumer.receive():
                for delivery in batch:
                    found.append((number, delivery.sequence))
                    await asyncio.sleep(0.001)
                    await delivery.ack()

        workers = [asyncio.create_task(work(n, c)) for n, c in ((1, first), (2, second))]

        async def all_there() -> bool:
            return len(found) >= 40

        await until(all_there)
        assert sorted(sequence for _, sequence in found) == list(range(1, 41))
        assert {number for number, _ in found} == {1, 2}
        assert len(await take(third, 40)) == 40
        await first.stop()
        await second.stop()
        await asyncio.gather(*workers)


async def test_no_more_than_max_outstanding_are_unsettled_at_the_broker(nats: Nats):
    await nats.publish_many(100)
    consumer = await nats.consume(max_outstanding=7)
    highest = 0

    async def within_bound() -> bool:
        nonlocal highest
        pending = (await nats.info())["num_ack_pending"]
        highest = max(highest, pending)
        return pending <= 7

    held = await receive(consumer, 7)
    await nothing(consumer, 0.3)
    for _ in range(60):
        await held.pop(0).ack()
        held += await receive(consumer, 1)
        assert consumer.pull.asked + len(consumer.pull.unsettled) <= 7
        await until(within_bound)  # the server answers a pull before it has counted the ack
    assert highest >= 5


async def test_there_is_no_waiting_for_a_place_that_is_free(nats: Nats, monkeypatch):
    """Asking for a few at a time must not leave the last few unasked for."""
    monkeypatch.setattr(_pull, "HEARTBEAT", 1_000.0)  # which looks after it, too
    consumer = await nats.consume(max_outstanding=8, ack_wait=300.0)
    await nats.publish("s.a")
    await take(consumer, 1)
    await nats.publish_many(20)
    assert len(await receive(consumer, 8)) == 8


async def test_what_is_not_settled_comes_again_after_ack_wait_with_its_attempt(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(ack_wait=0.5)
    for attempt in (1, 2, 3):
        [delivery] = await receive(consumer, 1)
        assert delivery.attempt == attempt
    await delivery.ack()
    await settled(nats)


async def test_a_message_nobody_settles_does_not_block_its_only_place(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(ack_wait=0.5, max_outstanding=1)
    [first] = await receive(consumer, 1)
    [second] = await receive(consumer, 1)
    assert (first.attempt, second.attempt) == (1, 2)
    await first.ack()  # late, and counts nevertheless
    await settled(nats)


async def test_in_progress_keeps_a_message_from_coming_again(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(ack_wait=4.0)
    [delivery] = await receive(consumer, 1)
    for _ in range(12):
        await delivery.in_progress()
        await nothing(consumer, 0.5)
    await delivery.ack()
    await delivery.in_progress()
    await settled(nats)


async def test_nak_brings_a_message_back_at_once_and_with_a_delay_not_before(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume()
    [delivery] = await receive(consumer, 1)
    started = time.monotonic()
    await delivery.nak()
    [delivery] = await receive(consumer, 1)
    assert time.monotonic() - started < 25  # and not after ack_wait
    assert delivery.attempt == 2
    started = time.monotonic()
    await delivery.nak(0.6)
    [delivery] = await receive(consumer, 1)
    assert time.monotonic() - started >= 0.59
    assert delivery.attempt == 3


@pytest.mark.parametrize("delay", [float("nan"), -1.0, 1e-12])
async def test_a_nonsensical_delay_means_at_once(nats: Nats, delay):
    await nats.publish("s.a")
    consumer = await nats.consume()
    [delivery] = await receive(consumer, 1)
    await delivery.nak(delay)
    started = time.monotonic()
    assert len(await receive(consumer, 1)) == 1
    assert time.monotonic() - started < 25  # and not after ack_wait


async def test_an_endless_delay_is_bounded_and_does_not_raise(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(ack_wait=2.0)
    [delivery] = await receive(consumer, 1)
    await delivery.nak(float("inf"))
    await nothing(consumer, 2.5)
    assert (await nats.info())["num_ack_pending"] == 1


async def test_a_terminated_message_never_comes_again(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume(ack_wait=2.0)
    [delivery] = await receive(consumer, 1)
    await delivery.term("cannot\r\nbe read" + "x" * 10_000)
    await settled(nats)
    await nothing(consumer, 2.5)


async def test_settling_twice_does_nothing(nats: Nats):
    await nats.publish("s.a")
    consumer = await nats.consume()
    [delivery] = await receive(consumer, 1)
    await delivery.ack()
    await delivery.nak()
    await delivery.term()
    await delivery.in_progress()
    await settled(nats)
    await nothing(consumer, 0.3)


async def test_stop_hands_back_at_once_what_was_not_received(nats: Nats, nats_url):
    await nats.publish_many(50)
    async with connected(nats_url) as other:
        first = await nats.consume(max_outstanding=40)

        async def arrived() -> bool:
            return (await nats.info())["num_ack_pending"] == 40

        await until(arrived)
        started = time.monotonic()
        await first.stop()
        assert list(await first.receive()) == []
        second = await other.consume(max_outstanding=40)
        found = await take(second, 50)
        assert time.monotonic() - started < 25  # and not after ack_wait
        assert sorted(d.sequence for d in found) == list(range(1, 51))


async def test_stop_in_the_middle_of_the_stream_of_messages_leaves_nothing_behind(
    nats: Nats, nats_url
):
    """Whatever the server was about to send when it was told to stop comes to the next one."""
    await nats.publish_many(600)
    found: list[int] = []
    async with connected(nats_url) as other:
        started = time.monotonic()
        for turn in range(12):
            consumer = await other.consume(max_outstanding=32, ack_wait=90.0)
            for _ in range(turn % 4):
                await asyncio.sleep(0.001)
            for delivery in await consumer.receive():
                found.append(delivery.sequence)
                await delivery.ack()
            await consumer.close()
        last = await other.consume(max_outstanding=100, ack_wait=90.0)
        while len(set(found)) < 600:
            found += [delivery.sequence for delivery in await take(last, 1)]
        assert time.monotonic() - started < 80  # and not after ack_wait
    assert sorted(found) == list(range(1, 601))


async def test_what_is_in_hand_may_be_settled_after_stop_and_close_hands_back_the_rest(
    nats: Nats, nats_url
):
    await nats.publish_many(4)
    first = await nats.consume()
    held = await receive(first, 4)
    await first.stop()
    await held[0].ack()
    await held[1].ack()
    await first.close()
    await first.close()
    assert [delivery.settled for delivery in held] == [True] * 4
    await held[2].ack()  # too late
    async with connected(nats_url) as other:
        found = await take(await other.consume(), 2)
        assert sorted((d.sequence, d.attempt) for d in found) == [(3, 2), (4, 2)]


async def test_a_stopped_consumer_ends_whoever_waits_in_receive(nats: Nats):
    consumer = await nats.consume()
    waiting = asyncio.create_task(consumer.receive())
    await asyncio.sleep(0.05)
    await consumer.stop()
    assert list(await waiting) == []
    assert list(await consumer.receive()) == []


async def test_cancelling_receive_at_any_moment_loses_nothing(nats: Nats):
    consumer = await nats.consume(max_outstanding=8)
    publisher = asyncio.create_task(nats.publish_many(150))
    found: list[int] = []
    turns, end = 0, time.monotonic() + 100
    while len(found) < 150:
        turns += 1
        assert time.monotonic() < end
        waiting = asyncio.create_task(consumer.receive())
        for _ in range(turns % 7):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            batch = await waiting
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            continue
        for delivery in batch:
            assert delivery.attempt == 1
            found.append(delivery.sequence)
            await delivery.ack()
    await publisher
    assert found == list(range(1, 151))


async def test_a_cancelled_stop_still_stops(nats: Nats):
    await nats.publish_many(5)
    consumer = await nats.consume()
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])

    async def handed_back() -> bool:
        info = await nats.info()
        return info["num_waiting"] == 0 and not consumer.pull.unsettled

    await until(handed_back)


async def test_opening_that_is_cancelled_leaves_no_task_and_no_request(nats: Nats):
    await nats.consume("warm")
    tasks = len(asyncio.all_tasks())
    for turns in range(0, 30, 2):
        opening = asyncio.create_task(nats.consume(f"c{turns}", max_deliver=3))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await (await opening).close()
        async with asyncio.timeout(60):
            while len(asyncio.all_tasks()) > tasks:
                await asyncio.sleep(0.02)


async def test_a_deleted_consumer_is_made_anew_and_misses_nothing(nats: Nats):
    await nats.publish_many(5)
    consumer = await nats.consume(deliver="all")
    await take(consumer, 5)
    await settled(nats)
    await nats.api.request("CONSUMER.DELETE.S.d")
    await nats.publish_many(5, start=5)
    found: set[int] = set()
    while not found >= {6, 7, 8, 9, 10}:
        found |= {delivery.sequence for delivery in await take(consumer, 1)}
    assert consumer.pull.renewals >= 1


async def test_a_deleted_consumer_of_what_is_new_misses_nothing_either(nats: Nats):
    await nats.publish_many(3)
    consumer = await nats.consume(deliver="new")
    await nats.api.request("CONSUMER.DELETE.S.d")
    await nats.publish_many(3, start=3)
    found = await take(consumer, 3)
    assert [delivery.sequence for delivery in found] == [4, 5, 6]
    # And it still is the consumer that was declared.
    again = await nats.consume(deliver="new")
    await again.close()
    with pytest.raises(DeclarationConflict):
        await nats.consume(deliver="all")


async def test_a_deleted_consumer_of_a_work_queue_is_made_anew(nats: Nats):
    await nats.stream("Q", retention="workqueue")
    consumer = await nats.consume(stream="Q", subjects=("q.>",))
    await nats.publish("q.a")
    await take(consumer, 1)

    async def removed() -> bool:
        return (await nats.api.request("STREAM.INFO.Q"))["state"]["messages"] == 0

    await until(removed)
    await nats.api.request("CONSUMER.DELETE.Q.d")
    await nats.publish("q.b")
    assert [d.subject for d in await take(consumer, 1)] == ["q.b"]


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_consumer_made_anew_for_requests_of_another_kind_ends_it_loudly(
    nats: Nats, nats_url: str, ordered: bool
):
    """As an older release may do: the server refuses each request, and nothing would come."""
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        consumer = await away.consume(ordered=ordered)
        proxy.refuse()
        proxy.cut()
        await nats.api.request("CONSUMER.DELETE.S.d")
        await ensure(nats.api, spec(ordered=not ordered))
        await nats.publish("s.a")
        proxy.heal()
        with pytest.raises(DeclarationConflict, match="ordered: "):
            async with asyncio.timeout(60):
                await consumer.receive()


async def test_a_stream_not_found_for_a_moment_is_not_taken_for_deleted(nats: Nats, monkeypatch):
    """A leader just elected may not know of it yet."""
    consumer = await nats.consume()
    asked, answers = nats.api.request, 0

    async def forgetful(operation, *args, **kwargs):
        nonlocal answers
        if operation == "CONSUMER.INFO.S.d":
            answers += 1
            if answers <= 2:
                raise MissingStream("the stream does not exist")
        return await asked(operation, *args, **kwargs)

    monkeypatch.setattr(nats.api, "request", forgetful)
    consumer.pull.doubt()

    async def found() -> bool:
        return answers == 3

    await until(found)
    await nats.publish("s.a")
    assert len(await take(consumer, 1)) == 1


@pytest.mark.parametrize(
    ("denied", "says"),
    [
        ("$JS.API.CONSUMER.INFO.>", "CONSUMER.INFO.S.Durable"),
        ("$JS.API.CONSUMER.MSG.NEXT.>", "CONSUMER.MSG.NEXT.S.Durable"),
        ("$JS.ACK.>", "JS.ACK.S.Durable.>"),
    ],
)
async def test_what_permissions_forbid_is_said_in_place_of_consuming_nothing(denied, says):
    """Or the same again and again, where it is acknowledgements that are forbidden."""
    permissions = f'{{publish: {{deny: ["{denied}"]}}}}'
    users = f"authorization: {{users: [{{user: u, password: p, permissions: {permissions}}}]}}"
    async with (
        NatsServer(config=users) as server,
        connected(f"nats://u:p@{server.host}:{server.port}") as nats,
    ):
        await nats.stream()
        await nats.publish("s.a")

        async def consume() -> None:
            consumer = await nats.consume("Durable", max_outstanding=1)
            while batch := await consumer.receive():
                for delivery in batch:
                    await delivery.ack()

        with pytest.raises(NatsPermissionError, match=f"forbid .*{says}"):
            await asyncio.wait_for(consume(), 60)


async def test_what_is_settled_late_does_not_touch_messages_of_a_stream_made_anew(nats: Nats):
    await nats.publish_many(2)
    consumer = await nats.consume()
    held = await receive(consumer, 2)
    await nats.api.request("STREAM.DELETE.S")
    await nats.stream()
    await nats.publish_many(2)
    try:
        again = await receive(consumer, 2)
    except ConsumerLost:
        pytest.skip("the deletion was noticed before the stream was there again")
    for delivery in held:
        await delivery.ack()
    await nats.connection.flush()
    assert (await nats.info())["num_ack_pending"] == 2
    for delivery in again:
        await delivery.ack()
    await settled(nats)


@pytest.mark.parametrize("settings", [{"max_outstanding": 0}, {"ack_wait": 0.0}])
async def test_a_specification_that_could_never_work_is_refused(nats: Nats, settings):
    with pytest.raises(DeclarationConflict, match="at least 1"):
        await nats.consume(**settings)


async def test_a_stream_that_is_gone_ends_the_consumer_with_what_it_still_had(nats: Nats):
    await nats.publish_many(2)
    consumer = await nats.consume()

    async def arrived() -> bool:
        return len(consumer.pull.unsettled) == 2

    await until(arrived)
    await nats.api.request("STREAM.DELETE.S")
    assert len(await consumer.receive()) == 2
    with pytest.raises(ConsumerLost, match="S was deleted") as raised:
        async with asyncio.timeout(60):
            await consumer.receive()
    assert not raised.value.retryable
    with pytest.raises(ConsumerLost):
        await consumer.receive()


async def test_a_stream_made_anew_is_read_from_its_beginning(nats: Nats):
    await nats.publish_many(9)
    consumer = await nats.consume(deliver="new")
    await nats.api.request("STREAM.DELETE.S")
    await nats.stream()  # before the consumer could find out, or it ends
    await nats.publish_many(2)
    try:
        found = await take(consumer, 2)
    except ConsumerLost:
        pytest.skip("the deletion was noticed before the stream was there again")
    assert [delivery.sequence for delivery in found] == [1, 2]


async def test_consuming_a_missing_stream_says_so(nats: Nats):
    with pytest.raises(MissingStream):
        await nats.consume(stream="NONE")


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", "a>", "ä", "x" * 129, "a\r\nPUB x 0"])
async def test_a_durable_name_that_would_break_a_subject_is_refused(nats: Nats, name):
    with pytest.raises(DeclarationConflict, match="letters, digits"):
        await nats.consume(name)


async def test_a_slow_consumer_gets_everything(nats: Nats):
    """The loop is blocked while messages arrive: nothing is dropped as nats-py would."""
    await nats.publish_many(300)
    consumer = await nats.consume(max_outstanding=300)
    found: list[int] = []
    while len(found) < 300:
        batch = await receive_some(consumer)
        time.sleep(0.05)
        for delivery in batch:
            found.append(delivery.sequence)
            await delivery.ack()
    assert found == list(range(1, 301))
    assert consumer.pull.renewals == 0


async def test_a_blocked_loop_is_not_taken_for_a_silent_server(nats: Nats):
    await nats.publish_many(1)
    consumer = await nats.consume()
    await take(consumer, 1)
    time.sleep(4.5)  # longer than two heartbeats
    await asyncio.sleep(0.5)
    assert consumer.pull.renewals == 0


async def receive_some(consumer):
    async with asyncio.timeout(60):
        return await consumer.receive()


async def test_an_idle_consumer_costs_next_to_nothing(nats: Nats):
    await nats.consume()
    await asyncio.sleep(0.2)
    used = time.process_time()
    await asyncio.sleep(3)
    assert time.process_time() - used < 1
