"""What a service author's own tests rest on."""

import asyncio
from typing import Annotated

import pytest

from common.domain import Command, Event, Keyed, Registry, Stream, Streams
from common.events.core import (
    BrokerUnavailable,
    BusConfig,
    Constant,
    EventBus,
    Inject,
    InMemoryTransport,
    MemoryInbox,
    Reject,
    Retry,
    RetryLater,
    Transport,
)
from common.events.core.testing import bus_under_test

REGISTRY = Registry()
STREAMS = Streams(
    [Stream("LAMP", ("lamp",)), Stream("BILL", ("bill",))], services={"billing": ["BILL"]}
)


class Lit(Event, type="lamp.lit", key="lamp", registry=REGISTRY):
    lamp: str


class Billed(Event, type="bill.billed", registry=REGISTRY):
    lamp: str


class Dim(Command, type="lamp.dim", registry=REGISTRY):
    lamp: str


def make(**options):
    return EventBus(
        InMemoryTransport(),
        source="/billing",
        service="billing",
        registry=REGISTRY,
        streams=STREAMS,
        config=BusConfig(**options),
    )


@pytest.mark.parametrize("declare", ["off", "verify", "create", "reconcile"])
async def test_handlers_get_what_others_publish_and_publish_themselves(declare):
    bus = make(declare=declare)
    bus.provide("cheap", name="tariff")

    @bus.subscribe(Lit, durable="billing")
    async def bill(event: Lit, tariff: Annotated[str, Inject("tariff")]) -> None:
        assert tariff == "cheap"
        await bus.publish(Billed(lamp=event.lamp))

    async with bus_under_test(bus) as test:
        await test.receive(Lit(lamp="a"))
        await test.receive(Lit(lamp="b"))
        await test.drained()
        assert await test.published(Lit) == [Lit(lamp="a"), Lit(lamp="b")]
        assert {event.lamp for event in await test.published(Billed)} == {"a", "b"}
        assert not await test.dead_letters()


@pytest.mark.parametrize("per_key", [False, True])
async def test_retries_take_no_time_and_end_as_declared(per_key):
    bus, attempts = make(), []

    @bus.subscribe(
        Lit, durable="billing", per_key=per_key, retry=Retry(attempts=4, backoff=Constant(3_600))
    )
    async def bill(event: Lit) -> None:
        attempts.append(event.lamp)
        if event.lamp == "broken":
            raise RuntimeError("no power")

    async with bus_under_test(bus) as test:
        for lamp in ("broken", "a"):
            await test.receive(Lit(lamp=lamp))
        await test.drained()
        (letter,) = await test.dead_letters()
    assert sorted(attempts) == ["a"] + ["broken"] * 4
    assert letter.subject == "dead.evt.lamp.lit"
    assert letter.headers["Dead-Letter-Attempts"] == "4"
    assert bus.subscriptions[0].retry.backoff == Constant(3_600)


@pytest.mark.parametrize("per_key", [False, True])
async def test_handlers_that_ask_for_later_are_not_waited_for(per_key):
    bus, attempts = make(), []

    @bus.subscribe(Lit, durable="billing", per_key=per_key)
    async def bill(event: Lit) -> RetryLater | None:
        attempts.append(event.lamp)
        return RetryLater(after=3_600) if len(attempts) < 3 else None

    async with bus_under_test(bus) as test:
        await test.receive(Lit(lamp="a"))
        await test.drained()
        assert not await test.dead_letters()
    assert attempts == ["a"] * 3


async def test_an_inbox_and_message_ids_do_their_part():
    inbox, handled = MemoryInbox(), []
    bus = make()

    @bus.subscribe(Lit, durable="billing", inbox=inbox)
    async def bill(event: Lit) -> None:
        handled.append(event.lamp)

    async with bus_under_test(bus) as test:
        first = await test.receive(Lit(lamp="a"), id="1")
        again = await test.receive(Keyed(Lit(lamp="a"), "1"))
        assert (first.duplicate, again.duplicate) == (False, True)
        await test.drained()
        test.transport.broker.advance(24 * 3_600)  # the duplicate window is over
        assert not (await test.receive(Lit(lamp="a"), id="1")).duplicate
        await test.drained()
    assert handled == ["a"]
    assert inbox.handled("billing", "1")


async def test_a_broker_that_fails_can_be_had():
    bus = make()

    @bus.subscribe(Lit, durable="billing", retry=Retry(attempts=3))
    async def bill(event: Lit) -> Reject:
        return Reject("not ours")

    async with bus_under_test(bus) as test:
        away = test.transport.failing(BrokerUnavailable("away"), subject="evt.bill.>")
        with away, pytest.raises(BrokerUnavailable):
            await bus.publish(Billed(lamp="a"))
        await test.receive(Lit(lamp="a"))
        await test.drained()
        assert len(await test.dead_letters()) == 1
        assert await test.published(Billed) == []


async def test_the_bus_has_its_own_transport_back_and_can_be_tested_again():
    bus, handled = make(), []
    real = bus.transport

    @bus.subscribe(Dim, durable="lamps")
    async def dim(command: Dim) -> None:
        handled.append(command.lamp)

    for lamp in "ab":
        async with bus_under_test(bus) as test:
            assert bus.transport is test.transport is not real
            await bus.send(Dim(lamp=lamp))
            await test.drained()
        assert bus.transport is real
    assert handled == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        async with bus_under_test(bus):
            raise ZeroDivisionError
    assert bus.transport is real
    assert isinstance(real, Transport)


async def test_a_handler_that_hangs_is_named():
    bus, started = make(drain=0.01), asyncio.Event()

    @bus.subscribe(Lit, durable="billing")
    async def bill(event: Lit) -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    async with bus_under_test(bus) as test:
        await test.receive(Lit(lamp="a"))
        await started.wait()
        with pytest.raises(TimeoutError, match="LAMP/billing: 1 delivered and not settled"):
            await test.drained(timeout=0.1)


async def test_a_subscription_that_failed_is_told():
    bus = make()

    @bus.subscribe(Lit, durable="billing")
    async def bill(event: Lit) -> None:
        pass

    async with bus_under_test(bus) as test:
        test.transport.broker.delete_stream("LAMP")
        async with asyncio.timeout(30):
            while (await bus.health()).ok:
                await asyncio.sleep(0)
        with pytest.raises(AssertionError, match="billing failed: stream LAMP was deleted"):
            await test.drained()
