"""Order, concurrency and extension of what is in hand, and what it costs."""

import asyncio
import copy
import gc
import json
import pickle
import random
import runpy
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.context import Context, bind, current
from common.events.core import (
    Constant,
    ConsumerLost,
    EventContext,
    InMemoryTransport,
    MemoryInbox,
    Outgoing,
    Retry,
    StreamSpec,
    current_event,
)

if TYPE_CHECKING:
    from bus_support import (
        AT_ONCE,
        Dimmed,
        Endless,
        Lit,
        Opened,
        dead_letters,
        make_bus,
        running,
        until,
    )
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("bus_support.py")))["shared"])


async def test_order_per_key_is_kept_with_failures_and_concurrency_across_keys():
    chance = random.Random(7)
    transport = InMemoryTransport()
    bus = make_bus(transport)
    handled: dict[str, list[int]] = {}
    busy: set[str] = set()
    most = 0

    @bus.subscribe(Lit, durable="d", per_key=True, concurrency=8, retry=Retry(50, Constant(0.001)))
    async def handle(event: Lit):
        nonlocal most
        assert event.lamp not in busy
        busy.add(event.lamp)
        most = max(most, len(busy))
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                raise ConnectionError
            handled.setdefault(event.lamp, []).append(event.number)
        finally:
            busy.remove(event.lamp)

    async with running(bus):
        sent = [Lit(lamp=str(key), number=number) for number in range(40) for key in range(20)]
        (await bus.publish_many(sent)).raise_for_failures()
        await transport.drained(timeout=30)
    assert handled == {str(key): list(range(40)) for key in range(20)}
    assert most > 1


async def test_a_dead_letter_lets_the_next_of_its_key_pass():
    bus, handled = make_bus(), []

    @bus.subscribe(Lit, durable="d", per_key=True, retry=AT_ONCE)
    async def handle(event: Lit, ctx: EventContext):
        handled.append((event.number, ctx.attempt))
        if event.number == 1:
            raise ConnectionError

    async with running(bus):
        await bus.publish_many([Lit(lamp="a", number=number) for number in range(3)])
        await bus.transport.drained()
        assert handled == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1)]
        assert len(await dead_letters(bus)) == 1


async def test_concurrency_is_reached_and_not_exceeded():
    bus, gate = make_bus(), asyncio.Event()
    at_once = most = done = 0

    @bus.subscribe(Lit, durable="d", concurrency=5, max_outstanding=50)
    async def handle(event: Lit):
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await gate.wait()
        at_once -= 1
        done += 1

    async with running(bus):
        await bus.publish_many([Lit(lamp=str(number)) for number in range(40)])
        await until(lambda: at_once == 5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert at_once == 5
        gate.set()
        await until(lambda: done == 40)
    assert most == 5


@pytest.mark.parametrize("per_key", [False, True])
async def test_a_handler_that_never_ends_does_not_stop_other_keys(per_key):
    bus, done = make_bus(), []

    @bus.subscribe(Lit, durable="d", per_key=per_key, concurrency=2)
    async def handle(event: Lit):
        if event.lamp == "stuck":
            await asyncio.Event().wait()
        done.append(event.number)

    async with running(bus, drain=0):
        await bus.publish(Lit(lamp="stuck"))
        await bus.publish_many([Lit(lamp=str(at % 9), number=at) for at in range(200)])
        await until(lambda: len(done) == 200)


async def test_what_is_held_is_bounded():
    bus, gate = make_bus(), asyncio.Event()

    @bus.subscribe(Lit, durable="d", concurrency=2, max_outstanding=10, per_key=True)
    async def handle(event: Lit):
        await gate.wait()

    async with running(bus):
        await bus.publish_many([Lit(lamp="one key") for _ in range(100)])
        (consuming,) = bus._life._consuming
        await until(lambda: consuming.in_hand == 10)
        for _ in range(50):
            await asyncio.sleep(0)
        assert consuming.in_hand == 10
        assert (await bus.health()).subscriptions[0].in_hand == 10
        gate.set()
        await bus.transport.drained()
        assert consuming.in_hand == 0


async def test_a_transport_that_hands_out_too_much_is_not_asked_for_more():
    gate = asyncio.Event()
    transport = Endless([make_bus().encode(Lit(lamp="a")).data], count=1_000)
    bus = make_bus(transport)

    @bus.subscribe(Lit, durable="d", concurrency=2, max_outstanding=40)
    async def handle(event: Lit):
        await gate.wait()

    async with running(bus):
        (consuming,) = bus._life._consuming
        await until(lambda: consuming.in_hand >= 40)
        for _ in range(100):
            await asyncio.sleep(0)
        assert consuming.in_hand <= 40 + transport.batch
        gate.set()
        await until(lambda: transport.settled == 1_000)


class Watched(InMemoryTransport):
    """Counts extensions, by sequence."""

    def __init__(self):
        super().__init__()
        self.extended: list[tuple[int, float]] = []

    async def consume(self, spec):
        consumer: Any = await super().consume(spec)
        receive = consumer.receive

        async def watched():
            found = await receive()
            return [_Watched(each, self.extended) for each in found]

        consumer.receive = watched
        return consumer


class _Watched:
    def __init__(self, delivery, log):
        self._delivery, self._log = delivery, log

    def __getattr__(self, name):
        return getattr(self._delivery, name)

    async def in_progress(self):
        self._log.append((self._delivery.sequence, time.monotonic() - self._delivery.received))
        await self._delivery.in_progress()


@pytest.mark.parametrize("per_key", [False, True])
async def test_what_is_in_hand_or_waits_is_extended(per_key):
    transport = Watched()
    bus, gate, attempts = make_bus(transport), asyncio.Event(), []

    @bus.subscribe(Lit, durable="d", concurrency=1, ack_wait=0.6, per_key=per_key)
    async def handle(event: Lit, ctx: EventContext):
        attempts.append(ctx.attempt)
        await gate.wait()

    async with running(bus):
        await bus.publish_many([Lit(lamp="a"), Lit(lamp="a"), Lit(lamp="b")])
        await until(lambda: len(transport.extended) >= 12)
        assert {sequence for sequence, _ in transport.extended} == {1, 2, 3}
        gate.set()
        await transport.drained()
    assert attempts == [1, 1, 1]


async def test_a_handler_that_takes_too_long_is_cancelled_and_tried_again():
    bus, cancelled = make_bus(), []

    @bus.subscribe(Lit, durable="d", ack_wait=0.3, extend_up_to=0.5, retry=Retry(2, Constant(0)))
    async def handle(event: Lit, ctx: EventContext):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(ctx.attempt)
            raise

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await until(lambda: len(cancelled) == 2)
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
        assert (await bus.health()).ok
    assert cancelled == [1, 2]
    assert "extend_up_to" in letter.headers["Dead-Letter-Error"]


async def test_the_worker_of_a_handler_that_took_too_long_goes_on():
    """No cancellation is left behind for the next message."""
    bus, done = make_bus(), []

    @bus.subscribe(
        Lit, durable="d", concurrency=1, ack_wait=0.3, extend_up_to=0.3, retry=Retry(1), timeout=30
    )
    async def handle(event: Lit):
        if event.lamp == "slow":
            await asyncio.Event().wait()
        if event.lamp == "clean-up":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)  # and ends well
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == (event.lamp == "clean-up")
        done.append(event.lamp)

    async with running(bus):
        await bus.publish_many([Lit(lamp=lamp) for lamp in ("slow", "clean-up", "fast", "fast")])
        await until(lambda: len(done) == 3)
        await bus.transport.drained()
        assert len(await dead_letters(bus)) == 1
    assert done == ["clean-up", "fast", "fast"]


async def test_a_handler_that_ignores_its_cancellation_lets_its_message_go(caplog):
    bus, calls, gate = make_bus(), [], asyncio.Event()

    @bus.subscribe(Lit, durable="d", concurrency=2, ack_wait=0.3, extend_up_to=0.2, retry=AT_ONCE)
    async def handle(event: Lit):
        calls.append(event.lamp)
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    try:
        async with running(bus, drain=0):
            await bus.publish(Lit(lamp="a"))
            await until(lambda: "let go" in caplog.text)
            # It comes again while the first attempt runs, and is not handled twice at once;
            # when it has come too often, it is stored.
            async with asyncio.timeout(20):
                while not await dead_letters(bus):
                    await asyncio.sleep(0.01)
            gate.set()
        assert calls == ["a"]
    finally:
        gate.set()


async def test_a_message_that_comes_again_while_it_is_in_hand_is_not_handled_twice_at_once():
    bus, calls, gate = make_bus(), [], asyncio.Event()

    @bus.subscribe(Lit, durable="d", ack_wait=30)
    async def handle(event: Lit, ctx: EventContext):
        calls.append(ctx.attempt)
        await gate.wait()

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await until(lambda: calls)
        (durable,) = bus.transport.broker.durables()
        bus.transport.broker.advance(31)  # as after a pause of the process
        await until(lambda: [each.attempt for each in durable.unsettled.values()] == [2])
        for _ in range(10):
            await asyncio.sleep(0)
        gate.set()
        await bus.transport.drained()
    assert calls == [1]


async def test_a_stream_made_anew_has_other_messages_at_the_same_positions():
    transport = InMemoryTransport()
    bus, handled, gate = make_bus(transport), [], asyncio.Event()

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        if event.lamp == "old":
            await gate.wait()
        handled.append(event.lamp)

    async with running(bus):
        assert (await bus.publish(Lit(lamp="old"))).sequence == 1
        await until(lambda: bus._life._consuming[0].in_hand)
        transport.broker.delete_stream("LAMP")
        await transport.declare([StreamSpec.of(bus.streams["LAMP"])], mode="create")
        assert (await bus.publish(Lit(lamp="new"))).sequence == 1
        gate.set()
        await until(lambda: len(handled) == 2)
        await transport.drained()
    assert sorted(handled) == ["new", "old"]


async def test_the_deadline_of_a_handler():
    bus, left = make_bus(), []
    from common.context import DeadlineExceeded, remaining

    @bus.subscribe(Lit, durable="d", timeout=0.5, retry=AT_ONCE)
    async def handle(event: Lit, ctx: EventContext):
        left.append(remaining())
        if ctx.attempt < 3:
            try:
                await asyncio.Event().wait()
            finally:
                left.append(ctx.attempt)

    assert DeadlineExceeded.retryable is False  # of a caller who waits; here somebody retries
    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        assert await dead_letters(bus) == []
    assert [each for each in left if isinstance(each, int)] == [1, 2]
    assert all(0 < each <= 0.5 for each in left if isinstance(each, float))


async def test_the_context_of_the_sender_is_restored_and_carried_on():
    from common.context import new_trace

    transport = InMemoryTransport()
    bus, seen = make_bus(transport), []
    trace = new_trace(sampled=True).with_state("vendor", "1")

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit, ctx: EventContext):
        assert current_event() is ctx
        seen.append((current(), ctx.envelope))
        await bus.publish(Dimmed(lamp=event.lamp))

    @bus.subscribe(Dimmed, durable="e")
    async def next_one(event: Dimmed, ctx: EventContext):
        seen.append((current(), ctx.envelope))

    async with running(bus):
        with bind(correlation_id="c-1", trace=trace, tenant="t-1", user="ada", request_id="r-1"):
            first = await bus.publish(Lit(lamp="a"))
        await transport.drained()
        assert current_event() is None
    (context, envelope), (second, caused) = seen
    assert (context.request_id, context.correlation_id) == (first.id, "c-1")
    assert (context.tenant, context.user, context.service) == ("t-1", None, "lamps")
    assert context.trace.trace_id == trace.trace_id
    assert context.trace.sampled
    assert context.trace.tracestate == (("vendor", "1"),)
    assert context.deadline is None
    assert envelope.causation_id is None
    assert (caused.causation_id, caused.correlation_id) == (first.id, "c-1")
    assert second.request_id == caused.id
    assert (second.tenant, second.trace.trace_id) == ("t-1", trace.trace_id)


async def test_a_message_without_context_starts_one():
    bus, seen = make_bus(), []

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        seen.append(current())

    async with running(bus):
        receipt = await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
    assert seen[0].request_id == receipt.id
    assert seen[0].correlation_id is not None
    assert seen[0].trace is not None
    assert seen[0].tenant is None


async def test_the_context_of_a_message_is_one_like_any_other():
    """It is made out when it is first read; nothing shows that."""
    bus, seen = make_bus(), []

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        context = current()
        with pytest.raises(AttributeError, match="no field 'lamp'"):
            context.lamp  # type: ignore[attr-defined]  # noqa: B018
        # The first to read may be several at once; without ids, each would make other ones.
        read = await asyncio.gather(*(asyncio.to_thread(current) for _ in range(4)))
        traces = await asyncio.gather(*(asyncio.to_thread(getattr, c, "trace") for c in read))
        assert len({id(trace) for trace in traces}) == 1
        seen.append(context)

    async with running(bus):
        envelope = {"specversion": "1.0", "id": "an id", "type": "lamp.lit", "source": "/x"}
        body = json.dumps({**envelope, "data": {"lamp": "a"}}).encode()
        await bus.transport.publish(Outgoing("evt.lamp.lit", body, "m-1", "LAMP"))
        await bus.transport.drained()
        assert await dead_letters(bus) == []
    (context,) = seen
    plain = context.replace()
    assert type(plain) is Context
    assert context == plain
    assert plain == context
    assert context != plain.replace(user="ada")
    assert len({context, plain}) == 1
    assert pickle.loads(pickle.dumps(context)) == plain
    assert copy.deepcopy(context) == plain
    assert repr(context) == repr(plain)
    assert context.service == "lamps"
    with pytest.raises(AttributeError, match="immutable"):
        context.user = "ada"


fields: ContextVar[str] = ContextVar("fields", default="")


async def test_what_one_handler_binds_the_next_does_not_see():
    bus, seen = make_bus(), []

    @bus.subscribe(Lit, durable="d", concurrency=1)
    async def handle(event: Lit):
        seen.append((current().user, fields.get()))
        bind(user="left behind").__enter__()
        fields.set("left behind")

    async with running(bus):
        await bus.publish_many([Lit(lamp="a"), Lit(lamp="b")])
        await bus.transport.drained()
    assert seen == [(None, ""), (None, "")]


async def test_with_an_inbox_a_duplicate_is_not_handled_again():
    inbox, calls = MemoryInbox(), []
    transport = InMemoryTransport()
    bus = make_bus(transport)

    @bus.subscribe(Lit, durable="d", inbox=inbox)
    async def handle(event: Lit):
        calls.append(event.lamp)

    async with running(bus):
        await bus.publish(Lit(lamp="a"), id="m-1")
        await transport.drained()
        assert inbox.handled("d", "m-1")
        transport.broker.advance(3600)  # beyond the broker's own duplicate window
        assert not (await bus.publish(Lit(lamp="a"), id="m-1")).duplicate
        await transport.drained()
        assert await dead_letters(bus) == []
    assert calls == ["a"]


@pytest.mark.parametrize("failure", ["raise", "retry", "reject", "cancelled"])
async def test_a_message_is_not_marked_before_its_handler_has_succeeded(failure):
    from contextlib import asynccontextmanager

    from common.events.core import Reject, RetryLater

    committed, states = [], []

    class Unit:
        def __init__(self):
            self.work = []

    @asynccontextmanager
    async def begin():
        unit = Unit()
        yield unit
        committed.extend(unit.work)

    inbox = MemoryInbox(begin)
    bus = make_bus()

    @bus.subscribe(Lit, durable="d", inbox=inbox, retry=AT_ONCE, timeout=0.05)
    async def handle(event: Lit, ctx: EventContext):
        states.append(inbox.handled("d", ctx.message_id))
        ctx.transaction(Unit).work.append(ctx.attempt)
        if ctx.attempt == 1:
            if failure == "raise":
                raise ConnectionError
            if failure == "cancelled":
                await asyncio.Event().wait()
            return Reject("no") if failure == "reject" else RetryLater(0)
        return None

    async with running(bus):
        receipt = await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        letters = await dead_letters(bus)
    if failure == "reject":
        assert (committed, states, len(letters)) == ([], [False], 1)
        assert not inbox.handled("d", receipt.id)
    else:
        assert (committed, states, letters) == ([2], [False, False], [])
        assert inbox.handled("d", receipt.id)


async def test_a_consumer_that_is_lost_ends_run_loudly_after_the_others_have_finished(caplog):
    transport = InMemoryTransport()
    bus, finished = make_bus(transport), []

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit): ...

    @bus.subscribe(Opened, durable="e")
    async def opened(event: Opened):
        await asyncio.sleep(0.05)
        finished.append(event.door)

    async def lose():
        await until(lambda: transport._consumers)
        doors = make_bus(InMemoryTransport(transport.broker), service="doors")
        async with doors:
            await doors.publish(Opened(door="front"))
        await until(lambda: bus._life._consuming[1].in_hand == 1)
        transport.broker.delete_stream("LAMP")

    losing = asyncio.create_task(lose())
    with pytest.raises(ConsumerLost):
        async with asyncio.timeout(20):
            await bus.run(drain=10)
    await losing
    assert finished == ["front"]
    assert "d: stopped" in caplog.text


async def test_nothing_grows_with_the_messages():
    sender = make_bus()
    bodies = [sender.encode(Lit(lamp=str(at))).data for at in range(97)]
    transport = Endless(bodies, count=100_000)
    bus = make_bus(transport)

    @bus.subscribe(Lit, durable="d", per_key=True, concurrency=16)
    async def handle(event: Lit, ctx: EventContext):
        if ctx.sequence % 3 == 0:
            await asyncio.sleep(0)

    async with running(bus):
        await until(lambda: transport.settled >= 60_000, 100)
        gc.collect()
        objects, tasks = len(gc.get_objects()), len(asyncio.all_tasks())
        await until(lambda: transport.settled == 100_000, 100)
        gc.collect()
        (consuming,) = bus._life._consuming
        assert len(gc.get_objects()) < objects + 2_000
        assert len(asyncio.all_tasks()) <= tasks + 16
        dispatcher = consuming._dispatcher
        assert consuming.in_hand == 0
        assert not dispatcher._lanes
        assert not dispatcher._sleeping
        assert not dispatcher._ready
        assert dispatcher.workers <= 16
        assert len(dispatcher._idle) <= 16
