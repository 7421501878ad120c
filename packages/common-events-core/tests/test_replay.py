"""What was a dead letter and is published again is handled by whom it names, and by nobody else."""

import asyncio
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.events.core import (
    BrokerUnavailable,
    EventContext,
    InMemoryTransport,
    MemoryInbox,
    Outgoing,
    Retry,
)
from common.events.core._command._dead_letters import replay
from common.events.core._command._letters import Filter
from common.events.core._dead_letter import REPLAY_CONSUMER

if TYPE_CHECKING:
    from bus_support import AT_ONCE, Lit, dead_letters, make_bus, running
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("bus_support.py")))["shared"])

ALL = Filter()


def marked(consumer: str, data: bytes, number: int = 0) -> Outgoing:
    headers = {REPLAY_CONSUMER: consumer}
    return Outgoing("evt.lamp.lit", data, f"replay:{number}", "LAMP", headers=headers)


@pytest.mark.parametrize("per_key", [False, True])
async def test_only_the_subscription_that_gave_it_up_handles_a_replay(per_key: bool):
    bus, handled, broken = make_bus(), [], True

    @bus.subscribe(Lit, durable="repair", retry=AT_ONCE, per_key=per_key)
    async def repair(event: Lit, ctx: EventContext):
        if broken:
            raise ConnectionError
        handled.append(("repair", event.number, ctx.headers.get(REPLAY_CONSUMER)))

    @bus.subscribe(Lit, durable="count", per_key=per_key)
    async def count(event: Lit):
        handled.append(("count", event.number, None))

    async with running(bus):
        await bus.publish_many([Lit(lamp="a", number=number) for number in range(3)])
        await bus.transport.drained()
        assert sorted(handled) == [("count", number, None) for number in range(3)]
        handled.clear()
        broken = False
        assert await replay(InMemoryTransport(bus.transport.broker), ALL, dry_run=False) == 0
        await bus.transport.drained()
        assert sorted(handled) == [("repair", number, "repair") for number in range(3)]
        assert await dead_letters(bus) == []


@pytest.mark.parametrize("unknown", ["dead_letter", "ignore", "fail"])
async def test_a_replay_for_another_is_not_even_read(unknown: str):
    bus, handled = make_bus(), []

    @bus.subscribe(Lit, durable="count", unknown=unknown)
    async def count(event: Lit):
        handled.append(event.number)

    async with running(bus):
        await bus.transport.publish(marked("repair", b"no JSON"))
        await bus.publish(Lit(lamp="a", number=1))
        await bus.transport.drained()
        assert handled == [1]
        assert await dead_letters(bus) == []
        assert (await bus.health()).ok
    durable = bus.transport.broker.stream("LAMP").durables["count"]
    assert not durable.unsettled


async def test_a_replay_for_another_does_not_disturb_the_order_of_a_key():
    bus, handled, gate = make_bus(), [], asyncio.Event()

    @bus.subscribe(Lit, durable="count", per_key=True, concurrency=4)
    async def count(event: Lit):
        await gate.wait()
        handled.append(event.number)

    async with running(bus):
        for number in range(20):
            data = bus.encode(Lit(lamp="a", number=100 + number)).data
            await bus.transport.publish(marked("repair", data, number))
            await bus.publish(Lit(lamp="a", number=number))
        gate.set()
        await bus.transport.drained()
    assert handled == list(range(20))


async def test_a_replay_for_another_that_came_too_often_is_no_dead_letter():
    bus = make_bus()

    @bus.subscribe(Lit, durable="count", retry=Retry(1), max_outstanding=16)
    async def count(event: Lit): ...

    async with running(bus):
        pass
    transport = InMemoryTransport(bus.transport.broker)
    (spec,) = [each.spec(bus.streams) for each in bus.subscriptions]
    async with transport:
        await transport.publish(marked("repair", b"no JSON"))
        consumer = await transport.consume(spec)
        deliveries = 0
        while not (delivery := (await consumer.receive())[0]).exhausted:
            deliveries += 1
            await delivery.nak()
        await delivery.nak()
        await consumer.close()
    assert deliveries > 1
    async with running(bus):
        await bus.transport.drained()
        assert await dead_letters(bus) == []


async def test_a_replay_that_fails_again_is_a_dead_letter_of_the_same_subscription():
    bus, calls = make_bus(), []

    @bus.subscribe(Lit, durable="repair", retry=AT_ONCE)
    async def repair(event: Lit):
        calls.append(event.number)
        raise ConnectionError

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        for count in (2, 3):
            assert await replay(InMemoryTransport(bus.transport.broker), ALL, dry_run=False) == 0
            await bus.transport.drained()
            (letter,) = await dead_letters(bus)
            assert letter.sequence == count
            assert letter.headers["Dead-Letter-Consumer"] == "repair"
            assert len(calls) == count * AT_ONCE.attempts


class Forgetful(InMemoryTransport):
    """Loses the connection before dead letters are removed."""

    async def remove(self, stream: str, sequence: int) -> bool:
        raise BrokerUnavailable("the connection is gone")


@pytest.mark.parametrize("later", [0, 3600])
async def test_a_replay_that_died_and_runs_again_has_one_effect_with_an_inbox(later: float):
    """Within the duplicate window the broker leaves it out, and beyond it the inbox does."""
    inbox, effects, broken = MemoryInbox(), [], True
    bus = make_bus()
    broker = bus.transport.broker

    @bus.subscribe(Lit, durable="repair", retry=AT_ONCE, inbox=inbox)
    async def repair(event: Lit, ctx: EventContext):
        if broken:
            raise ConnectionError
        effects.append((event.number, ctx.message_id))

    async with running(bus):
        receipt = await bus.publish(Lit(lamp="a", number=7), id="m-1")
        await bus.transport.drained()
        broken = False
        # Its id was handled within the window, and it is no repetition of that to the broker.
        assert await replay(Forgetful(broker), ALL, dry_run=False) == 1
        await bus.transport.drained()
        assert effects == [(7, "m-1")]
        assert len(await dead_letters(bus)) == 1
        broker.advance(later)
        assert await replay(InMemoryTransport(broker), ALL, dry_run=False) == 0
        await bus.transport.drained()
        assert effects == [(7, "m-1")]
        assert await dead_letters(bus) == []
        stored = await bus.transport.browse("LAMP")
        assert [each.sequence for each in stored] == [
            receipt.sequence + each for each in range(3 if later else 2)
        ]


@pytest.mark.parametrize(("to", "handlers"), [("count", ["count"]), ("*", ["count", "repair"])])
async def test_a_replay_may_be_for_another_subscription_or_for_all(to: str, handlers: list[str]):
    bus, handled, broken = make_bus(), [], True

    @bus.subscribe(Lit, durable="repair", retry=AT_ONCE)
    async def repair(event: Lit):
        if broken:
            raise ConnectionError
        handled.append("repair")

    @bus.subscribe(Lit, durable="count")
    async def count(event: Lit):
        if not broken:
            handled.append("count")

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        broken = False
        # Another choice is another message: the broker does not take it for the one before.
        assert await replay(Forgetful(bus.transport.broker), ALL, dry_run=False) == 1
        await bus.transport.drained()
        assert handled == ["repair"]
        handled.clear()
        again = InMemoryTransport(bus.transport.broker)
        assert await replay(again, ALL, dry_run=False, to=to) == 0
        await bus.transport.drained()
        assert sorted(handled) == handlers
        assert await dead_letters(bus) == []


async def test_a_dead_letter_that_names_no_subscription_is_replayed_to_all():
    bus, handled = make_bus(), []

    @bus.subscribe(Lit, durable="count")
    async def count(event: Lit):
        handled.append(event.number)

    async with running(bus):
        headers = {"Dead-Letter-Stream": "LAMP"}
        data = bus.encode(Lit(lamp="a", number=3)).data
        letter = Outgoing("dead.evt.lamp.lit", data, "l-1", "DEAD_LETTERS", headers=headers)
        await bus.transport.publish(letter)
        again = InMemoryTransport(bus.transport.broker)
        assert await replay(again, ALL, dry_run=False) == 0
        await bus.transport.drained()
    assert handled == [3]
