"""Starting and stopping: as often as one likes, and cancelled anywhere."""

import asyncio
import gc
import logging
import runpy
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pytest

from common.context import deadline, remaining
from common.events.core import (
    DEAD_LETTER_STREAM,
    BrokerUnavailable,
    BusConfig,
    ConsumerLost,
    HandlerError,
    Inject,
    InMemoryTransport,
    MissingStream,
    Reject,
    StreamSpec,
    TransportClosed,
)

if TYPE_CHECKING:
    from bus_support import Dimmed, Lit, Opened, make_bus, running, until
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("bus_support.py")))["shared"])


def with_handler(transport=None, **config):
    bus = make_bus(transport, **config)

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        handled.append(event.lamp)

    handled: list[str] = []
    return bus, handled


class Counting(InMemoryTransport):
    opened = closed = 0

    async def open(self):
        self.opened += 1
        await asyncio.sleep(0)
        await super().open()

    async def close(self):
        self.closed += 1
        await asyncio.sleep(0)
        await super().close()

    async def declare(self, streams, *, mode):
        await asyncio.sleep(0)
        return await super().declare(streams, mode=mode)

    async def consume(self, spec):
        await asyncio.sleep(0)
        return await super().consume(spec)


async def test_start_and_stop_are_idempotent_also_at_once():
    bus, handled = with_handler(Counting())
    await asyncio.gather(bus.start(), bus.start(), bus.connect())
    await bus.start()
    assert bus.transport.opened == 1
    assert len(bus.transport._consumers) == 1
    await bus.publish(Lit(lamp="a"))
    await bus.transport.drained()
    await asyncio.gather(bus.stop(), bus.stop())
    await bus.stop()
    assert bus.transport.closed == 1
    assert handled == ["a"]


async def test_stopping_what_was_never_started():
    bus, _ = with_handler(Counting())
    await bus.stop()
    assert bus.transport.closed == 0


async def test_a_stopped_bus_starts_again():
    bus, handled = with_handler()
    for lamp in ("a", "b"):
        async with running(bus):
            await bus.publish(Lit(lamp=lamp))
            await bus.transport.drained()
    assert handled == ["a", "b"]


def test_a_bus_drains_in_whichever_event_loop_it_runs():
    """A module's bus outlives the loop of each test."""
    bus, handled = make_bus(), []

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        started.set()
        await asyncio.sleep(0.05)
        handled.append(event.lamp)

    async def once(lamp):
        await bus.start()
        await asyncio.gather(bus.stop(), bus.stop(), bus.start())
        await bus.start()
        await bus.publish(Lit(lamp=lamp))
        await started.wait()
        await bus.stop()

    for lamp in ("a", "b"):
        bus.use(InMemoryTransport())
        started = asyncio.Event()
        asyncio.run(once(lamp))
    assert handled == ["a", "b"]


async def test_the_deadline_of_starting_is_none_of_the_messages():
    left: list[float | None] = []

    class Timed(InMemoryTransport):
        async def publish(self, message, **options):
            if message.stream == "DEAD_LETTERS":
                left.append(remaining())
            return await super().publish(message, **options)

    bus = make_bus(Timed())

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        left.append(remaining())
        return Reject("no")

    async with deadline(600):
        await bus.start()
    try:
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        assert left == [None, None]
    finally:
        await bus.stop()


async def test_another_transport_can_be_used_until_the_bus_is_connected():
    bus, handled = with_handler()
    first, second = bus.transport, InMemoryTransport()
    bus.use(second)
    async with running(bus):
        assert bus.transport is second
        await bus.publish(Lit(lamp="a"))
        await second.drained()
        with pytest.raises(HandlerError, match="before the bus is started"):
            bus.use(first)
    bus.use(first)
    assert handled == ["a"]
    assert "LAMP" not in first.broker.streams


async def test_publishing_only_handles_nothing():
    bus, handled = with_handler()
    async with bus:
        await bus.publish(Lit(lamp="a"))
        assert bus.transport._consumers == []
        health = await bus.health()
        assert (health.ok, health.subscriptions) == (True, ())
    assert handled == []
    with pytest.raises(TransportClosed):
        await bus.publish(Lit(lamp="a"))
    assert not (await bus.health()).ok


async def steps(make):
    """Await ``make()`` and cancel it at its first await, then at its second, and so on."""
    for at in range(1, 200):
        task = asyncio.create_task(make())
        for _ in range(at):
            await asyncio.sleep(0)
        if task.done():
            await task
            return
        task.cancel()
        yield task
    raise AssertionError("it never ended")


async def test_start_can_be_cancelled_at_every_await():
    log = []

    class Pool:
        async def __aenter__(self):
            await asyncio.sleep(0)
            log.append(1)

        async def __aexit__(self, *_):
            await asyncio.sleep(0)
            log.append(-1)

    cancelled = 0
    buses = []

    async def start():
        bus, _ = with_handler(Counting())
        bus.provide(Pool())
        buses.append(bus)
        await bus.start()

    tasks = len(asyncio.all_tasks())
    async for task in steps(start):
        cancelled += 1
        with pytest.raises(asyncio.CancelledError):
            await task
        bus = buses[-1]
        assert bus.transport._consumers == []
        assert bus.transport.opened == bus.transport.closed
        assert sum(log) == 0
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks
        await bus.start()  # nothing is in the way
        await bus.stop()
    assert cancelled >= 5
    await buses[-1].stop()


async def test_consumers_are_closed_before_what_handlers_depend_on():
    class Pool:
        async def __aenter__(self): ...

        async def __aexit__(self, *_):
            consumers.append(len(bus.transport._consumers))

    consumers: list[int] = []
    bus, _ = with_handler()
    bus.provide(Pool())
    async with running(bus):
        assert len(bus.transport._consumers) == 1
    assert consumers == [0]


async def test_stop_can_be_cancelled_at_every_await_and_closes_all_the_same():
    buses = []

    async def stop():
        await buses[-1].stop()

    async def fresh():
        bus, _ = with_handler(Counting())

        @bus.subscribe(Dimmed, durable="slow")
        async def slow(event: Dimmed):
            await asyncio.Event().wait()

        await bus.start()
        await bus.publish(Dimmed(lamp="a"))
        await until(lambda: bus._life._consuming[1].in_hand == 1)
        buses.append(bus)

    await fresh()
    tasks = len(asyncio.all_tasks())
    for at in range(1, 12):
        task = asyncio.create_task(stop())
        for _ in range(at):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await task
        bus = buses[-1]
        assert bus.transport._consumers == []
        assert bus.transport.closed == 1
        await fresh()
        assert len(asyncio.all_tasks()) <= tasks
    await buses[-1].stop(drain=0)
    gc.collect()


async def test_run_can_be_cancelled():
    bus, _ = with_handler(Counting())
    for turns in (1, 3, 6, 50):
        task = asyncio.create_task(bus.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bus.transport.opened == bus.transport.closed
        assert bus.transport._consumers == []


async def test_stop_ends_run():
    bus, _ = with_handler()
    run = asyncio.create_task(bus.run())
    await until(lambda: bus._life.started)
    await bus.stop()
    async with asyncio.timeout(20):
        await run


async def test_run_tells_what_has_failed_since_start():
    bus, _ = with_handler()
    await bus.start()
    bus.transport.broker.delete_stream("LAMP")
    await until(lambda: bus._life._failure is not None)
    async with asyncio.timeout(20):
        with pytest.raises(ConsumerLost):
            await bus.run()


async def test_run_without_subscriptions_says_what_to_do():
    with pytest.raises(HandlerError, match="nothing is subscribed"):
        await make_bus().run()


async def test_run_gives_the_signals_back():
    bus, _ = with_handler()
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    task = asyncio.create_task(bus.run())
    await until(lambda: bus.transport._consumers)
    signal.raise_signal(signal.SIGTERM)
    await task
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


async def test_a_signal_while_it_starts_ends_it():
    class Away(InMemoryTransport):
        async def open(self):
            opening.set()
            await asyncio.sleep(3600)

    opening = asyncio.Event()
    bus, _ = with_handler(Away())
    task = asyncio.create_task(bus.run())
    await opening.wait()
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await task


async def test_a_broker_that_is_away_ends_run_with_its_error():
    class Away(InMemoryTransport):
        async def open(self):
            raise BrokerUnavailable("away")

    bus, _ = with_handler(Away())
    with pytest.raises(BrokerUnavailable):
        await bus.run()


async def test_streams_are_declared_as_configured():
    broker = InMemoryTransport().broker
    bus, _ = with_handler(InMemoryTransport(broker))
    async with bus:
        assert set(broker.streams) == {"LAMP"}
    async with running(bus):
        assert set(broker.streams) == {"LAMP", "DEAD_LETTERS"}
    letters = broker.streams["DEAD_LETTERS"].spec
    assert letters.max_messages_per_subject is None

    own = StreamSpec(name="LAMP", subjects=("evt.lamp.>", "cmd.lamp.>"), max_messages=9)
    bus, _ = with_handler(InMemoryTransport(), streams=(own,))
    async with running(bus):
        assert bus.transport.broker.streams["LAMP"].spec.max_messages == 9

    bus, _ = with_handler(InMemoryTransport(), declare="off")
    with pytest.raises(MissingStream):
        await bus.start()
    assert bus.transport._consumers == []


def test_wrong_configuration_is_refused_at_construction():
    for wrong in ({"drain": -1}, {"declare": "maybe"}, {"drian": 3}, {"mode": "x"}):
        with pytest.raises(ValueError):
            BusConfig.model_validate(wrong)


async def test_binary_mode_is_read_too():
    bus, handled = with_handler(mode="binary")
    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
    assert handled == ["a"]


async def test_each_subscription_says_at_start_what_it_consumes(caplog):
    bus = make_bus()

    @bus.subscribe(Lit, Dimmed, durable="count", concurrency=7, per_key=True)
    async def count(event: Lit | Dimmed): ...

    @bus.subscribe(Lit, durable="repair")
    async def repair(event: Lit): ...

    with caplog.at_level(logging.INFO, "common.events"):
        async with running(bus):
            pass
    assert [each for each in caplog.messages if "consumes" in each] == [
        (
            "count: consumes evt.lamp.lit, evt.lamp.dimmed from stream LAMP, at most 7 at once, "
            "each key in order"
        ),
        "repair: consumes evt.lamp.lit from stream LAMP, at most 16 at once",
    ]


async def test_what_start_declares_is_known_before():
    own = StreamSpec(name="LAMP", subjects=("evt.lamp.>", "cmd.lamp.>"), replicas=1)
    bus = make_bus(streams=(own,))
    assert bus.declarations == (own,)

    @bus.subscribe(Opened, durable="bell")
    async def ring(event: Opened): ...

    doors = StreamSpec.of(bus.streams["DOOR"])
    assert bus.declarations == (own, doors, DEAD_LETTER_STREAM)
    async with running(bus):
        assert {each.spec for each in bus.transport.broker.streams.values()} == {*bus.declarations}


async def test_check_tells_all_that_keeps_the_bus_from_starting():
    bus = make_bus()

    @bus.subscribe(Lit, durable="repair")
    async def repair(
        event: Lit, ladder: Annotated[Path, Inject], url: Annotated[str, Inject("u")]
    ): ...

    (problem,) = bus.check()
    assert "nothing is provided for parameter 'ladder'" in problem
    bus.provide(Path("/ladder"), as_=Path)
    (problem,) = bus.check()
    assert "name='u'" in problem
    bus.provide("x", name="u")
    assert bus.check() == []
    async with running(bus):
        pass
