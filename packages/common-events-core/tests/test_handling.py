"""What becomes of a message, by what its handler returns or raises."""

import asyncio
import logging
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.context import observe
from common.errors import NotFoundError, RateLimitedError, ValidationError
from common.events.core import (
    Ack,
    BrokerUnavailable,
    Constant,
    EventContext,
    EventHandler,
    InMemoryTransport,
    MessageTooLarge,
    Outgoing,
    Reject,
    Retry,
    RetryLater,
    UndecodableMessage,
)

if TYPE_CHECKING:
    from bus_support import (
        AT_ONCE,
        STREAMS,
        Dimmed,
        Light,
        Lit,
        dead_letters,
        make_bus,
        running,
        until,
    )
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("bus_support.py")))["shared"])

KEPT = pytest.mark.parametrize("per_key", [False, True], ids=["handed back", "kept"])


class Kept:
    def __init__(self):
        self.ops = []

    def on_start(self, op):
        pass

    def on_end(self, op):
        self.ops.append((op.kind, op.name, op.outcome, op.error_code, dict(op.attributes)))


@pytest.mark.parametrize("result", [None, Ack()])
async def test_what_is_handled_is_acknowledged(result):
    bus, seen = make_bus(), []

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit, ctx: EventContext):
        seen.append((event, ctx.attempt, ctx.consumer, ctx.subject, ctx.stream, ctx.key))
        return result

    async with running(bus):
        sent = Lit(lamp="a", number=7)
        await bus.publish(sent)
        await bus.transport.drained()
        assert seen == [(sent, 1, "d", "evt.lamp.lit", "LAMP", "a")]
        assert await dead_letters(bus) == []


@KEPT
async def test_what_fails_is_tried_again_and_then_a_dead_letter(per_key):
    bus, attempts = make_bus(), []

    @bus.subscribe(Lit, durable="d", retry=AT_ONCE, per_key=per_key)
    async def handle(event: Lit, ctx: EventContext):
        attempts.append(ctx.attempt)
        raise LookupError("no such\nlamp: é")

    async with running(bus):
        receipt = await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
        (original,) = await bus.transport.browse("LAMP")
    assert attempts == [1, 2, 3]
    assert letter.subject == "dead.evt.lamp.lit"
    assert letter.data == original.data
    headers = dict(letter.headers)
    assert headers.pop("Dead-Letter-Time").endswith("+00:00")
    assert {name: value for name, value in headers.items() if name.startswith("Dead-")} == {
        "Dead-Letter-Reason": "attempts",
        "Dead-Letter-Error": "LookupError: no such lamp: ?",
        "Dead-Letter-Attempts": "3",
        "Dead-Letter-Consumer": "d",
        "Dead-Letter-Stream": "LAMP",
        "Dead-Letter-Sequence": str(receipt.sequence),
        "Dead-Letter-Subject": "evt.lamp.lit",
    }


@KEPT
async def test_a_failure_that_passes_leaves_no_trace(per_key):
    bus, attempts = make_bus(), []

    @bus.subscribe(Lit, durable="d", retry=AT_ONCE, per_key=per_key)
    async def handle(event: Lit, ctx: EventContext):
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError
        return Ack()

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        assert attempts == [1, 2, 3]
        assert await dead_letters(bus) == []


@KEPT
@pytest.mark.parametrize("failure", [ValidationError("bad"), KeyError("k"), "reject", "group"])
async def test_what_no_attempt_mends_is_a_dead_letter_at_once(failure, per_key):
    bus, attempts = make_bus(), []

    @bus.subscribe(
        Lit, durable="d", retry=AT_ONCE, per_key=per_key, give_up_on=(ValidationError, LookupError)
    )
    async def handle(event: Lit, ctx: EventContext):
        attempts.append(ctx.attempt)
        if failure == "reject":
            return Reject("not for us")
        if failure == "group":
            raise ExceptionGroup("several", [KeyError("a"), ValidationError("b")])
        raise failure

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert attempts == [1]
    reason = letter.headers["Dead-Letter-Reason"], letter.headers["Dead-Letter-Error"]
    expected = ("rejected", "not for us") if failure == "reject" else ("given_up", reason[1])
    assert reason == expected


async def test_by_default_only_invalid_input_is_given_up_at_once():
    bus, attempts = make_bus(), []

    @bus.subscribe(Lit, durable="d", retry=AT_ONCE)
    async def handle(event: Lit, ctx: EventContext):
        attempts.append((event.lamp, ctx.attempt))
        raise ValidationError("bad") if event.lamp == "a" else NotFoundError("not yet")

    async with running(bus):
        await bus.publish_many([Lit(lamp="a"), Lit(lamp="b")])
        await bus.transport.drained()
    assert sorted(attempts) == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]


class Recorded(InMemoryTransport):
    """Notes how deliveries are settled."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.settled = []

    async def consume(self, spec):
        consumer: Any = await super().consume(spec)
        receive = consumer.receive

        async def recorded():
            found = await receive()
            return [_Recording(each, self.settled) for each in found]

        consumer.receive = recorded
        return consumer

    async def publish(self, message, **options):
        receipt = await super().publish(message, **options)
        if message.subject.startswith("dead."):
            self.settled.append(("stored", message.id))
        return receipt


class _Recording:
    def __init__(self, delivery, log):
        self._delivery = delivery
        self._log = log

    def __getattr__(self, name):
        return getattr(self._delivery, name)

    async def ack(self):
        self._log.append(("ack", self._delivery.attempt))
        await self._delivery.ack()

    async def nak(self, delay=0.0):
        self._log.append(("nak", round(delay, 3)))
        await self._delivery.nak(delay)

    async def term(self, reason=""):
        self._log.append(("term", reason))
        await self._delivery.term(reason)

    async def in_progress(self):
        self._log.append(("in_progress", self._delivery.attempt))
        await self._delivery.in_progress()


@pytest.mark.parametrize(
    ("failure", "delays"),
    [
        (RetryLater(7), [7.0, 7.0]),
        (RetryLater(0), [0.0, 0.0]),
        (RetryLater(), [5.0, 5.0]),
        (KeyError(), [5.0, 5.0]),
        (RateLimitedError("slow", retry_after=42.0), [42.0, 42.0]),
    ],
    ids=str,
)
async def test_it_is_handed_back_for_the_time_asked_for(failure, delays):
    transport = Recorded()
    bus = make_bus(transport)
    retry = Retry(attempts=3, backoff=Constant(5), jitter=False)

    @bus.subscribe(Lit, durable="d", retry=retry)
    async def handle(event: Lit):
        if isinstance(failure, Exception):
            raise failure
        return failure

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await transport.drained()
    assert [value for what, value in transport.settled if what == "nak"] == delays


async def test_the_dead_letter_is_stored_before_the_original_is_terminated():
    transport = Recorded()
    bus = make_bus(transport)

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        return Reject("no")

    async with running(bus):
        receipt = await bus.publish(Lit(lamp="a"))
        await transport.drained()
        (message,) = await transport.browse("LAMP")
    assert transport.settled == [
        ("stored", f"d:LAMP:{receipt.sequence}:{message.timestamp.isoformat()}"),
        ("term", "rejected"),
    ]


async def test_a_stream_made_anew_has_dead_letters_of_its_own_at_the_same_positions():
    bus = make_bus()
    broker = bus.transport.broker

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit):
        return Reject(event.lamp)

    for lamp in ("old", "new"):
        if lamp == "new":
            broker.delete_stream("LAMP")
            broker.advance(0.001)
        async with running(bus):
            assert (await bus.publish(Lit(lamp=lamp))).sequence == 1
            await bus.transport.drained()
    async with bus:
        errors = [letter.headers["Dead-Letter-Error"] for letter in await dead_letters(bus)]
    assert errors == ["old", "new"]


@KEPT
@pytest.mark.parametrize("attempts", [1, 2])
async def test_when_the_dead_letter_cannot_be_stored_nothing_is_lost(
    per_key, attempts, monkeypatch
):
    monkeypatch.setattr(
        "common.events.core._consuming._STORE_AGAIN", Retry(backoff=Constant(0.01), jitter=False)
    )
    transport = Recorded()
    bus, calls = make_bus(transport), []

    retry = Retry(attempts=attempts, backoff=Constant(0))

    @bus.subscribe(Lit, durable="d", retry=retry, per_key=per_key)
    async def handle(event: Lit):
        calls.append(event.lamp)
        raise KeyError

    async with running(bus):
        with transport.failing(BrokerUnavailable("away"), subject="dead.>"):
            await bus.publish(Lit(lamp="a"))
            if per_key or attempts == 1:
                await until(lambda: len(calls) == attempts)
                await asyncio.sleep(0.05)
            else:
                await until(lambda: len(transport.settled) >= 3)
            assert await dead_letters(bus) == []
            assert ("term", "attempts") not in transport.settled
        await transport.drained()
        assert len(await dead_letters(bus)) == 1
    assert calls == ["a"] * attempts  # it is not handled again, only stored
    assert transport.settled[-1] == ("term", "attempts")


async def test_a_letter_that_is_too_large_with_its_headers_is_stored_without_them():
    class Tight(InMemoryTransport):
        async def publish(self, message, **options):
            if "X-Long" in message.headers and message.subject.startswith("dead."):
                raise MessageTooLarge("too large")
            return await super().publish(message, **options)

    bus = make_bus(Tight())

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit): ...

    async with running(bus):
        headers = {"X-Long": "y" * 1000, "Nats-Msg-Id": "1", "Dead-Letter-Reason": "old"}
        await bus.transport.publish(
            Outgoing("evt.lamp.lit", b"\xff", id="1", stream="LAMP", headers=headers)
        )
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert letter.data == b"\xff"
    assert letter.headers["Dead-Letter-Reason"] == "malformed"


async def test_headers_of_the_message_are_kept_but_not_those_brokers_obey():
    bus = make_bus()

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit): ...

    async with running(bus):
        headers = {"X-Mine": "1", "Nats-Expected-Stream": "LAMP", "Dead-Letter-Error": "old"}
        await bus.transport.publish(
            Outgoing("evt.lamp.lit", b"no json", id="1", stream="LAMP", headers=headers)
        )
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert letter.headers["X-Mine"] == "1"
    assert "Nats-Expected-Stream" not in letter.headers
    assert letter.headers["Dead-Letter-Error"] != "old"


async def test_without_dead_letters_it_is_dropped_loudly(caplog):
    bus, kept = make_bus(), Kept()

    @bus.subscribe(Lit, durable="d", dead_letter=False)
    async def handle(event: Lit):
        return Reject("no")

    with observe(kept):
        async with running(bus):
            await bus.publish(Lit(lamp="a"))
            await bus.transport.drained()
    assert "is dropped" in caplog.text
    settled = [op[:4] for op in kept.ops if op[0] == "messaging.settle"]
    assert settled == [("messaging.settle", "drop", "error", "MESSAGE_DROPPED")]
    assert "DEAD_LETTERS" not in bus.transport.broker.streams


async def test_what_came_more_often_than_there_are_attempts_is_not_handled():
    """Its handler may be what kills the process."""
    transport = InMemoryTransport()
    calls: list[str] = []
    letters = []

    for life in range(4):
        bus = make_bus(transport if life == 3 else InMemoryTransport(transport.broker))

        @bus.subscribe(Lit, durable="d", retry=Retry(attempts=3), ack_wait=30)
        async def handle(event: Lit):
            calls.append(event.lamp)
            await asyncio.Event().wait()

        await bus.start()
        if life == 0:
            await bus.publish(Lit(lamp="a"))
        if life < 3:
            await until(lambda at=life: len(calls) == at + 1)
            bus.transport.crash()
            transport.broker.advance(31)
            await bus.stop(drain=0)
        else:
            await transport.drained()
            letters = await dead_letters(bus)
            await bus.stop()
    assert calls == ["a", "a", "a"]
    (letter,) = letters
    assert letter.headers["Dead-Letter-Reason"] == "attempts"
    assert letter.headers["Dead-Letter-Attempts"] == "4"


INVALID = (
    b'{"specversion":"1.0","id":"1","source":"/x","type":"lamp.lit",'
    b'"dataschema":"x/1","data":{"number":"many"}}'
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (b"\x00\xff", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"specversion":"1.0","data":{}}', "malformed"),
        (INVALID, "invalid_data"),
    ],
)
async def test_what_cannot_be_read_is_a_dead_letter_at_once(data, reason):
    bus, calls = make_bus(), []

    @bus.subscribe(Lit, durable="d", unknown="ignore")
    async def handle(event: Lit):
        calls.append(event)

    async with running(bus):
        await bus.transport.publish(Outgoing("evt.lamp.lit", data, id="1", stream="LAMP"))
        await bus.publish(Lit(lamp="after"))
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert letter.data == data
    assert letter.headers["Dead-Letter-Reason"] == reason
    assert [each.lamp for each in calls] == ["after"]


NEWER = (
    b'{"specversion":"1.0","id":"1","source":"/x","type":"lamp.lit","time":"2026-01-01T00:00:00Z",'
    b'"dataschema":"urn:x/9","data":{"lamp":"a"}}'
)


async def test_unknown_versions_are_dead_letters_unless_told_otherwise():
    for policy, letters in [("dead_letter", 1), ("ignore", 0)]:
        bus = make_bus()

        @bus.subscribe(Lit, durable="d", unknown=policy)
        async def handle(event: Lit): ...

        async with running(bus):
            await bus.transport.publish(Outgoing("evt.lamp.lit", NEWER, id="1", stream="LAMP"))
            await bus.transport.drained()
            assert len(await dead_letters(bus)) == letters


async def test_unknown_versions_end_run_when_asked_to():
    bus = make_bus()

    @bus.subscribe(Lit, durable="d", unknown="fail")
    async def handle(event: Lit): ...

    async with bus:
        await bus.transport.publish(Outgoing("evt.lamp.lit", NEWER, id="1", stream="LAMP"))
        with pytest.raises(UndecodableMessage) as raised:
            async with asyncio.timeout(10):
                await bus.run()
    assert raised.value.reason == "unknown_version"
    # It is still there for a service that can read it.
    again = InMemoryTransport(bus.transport.broker)
    later = make_bus(again)

    @later.subscribe(Lit, durable="d", unknown="ignore")
    async def other(event: Lit): ...

    async with running(later):
        assert (await again.browse("LAMP")) != []
        await again.drained()


async def test_a_wrong_result_counts_as_a_failure():
    bus = make_bus()

    @bus.subscribe(Lit, durable="d", retry=Retry(attempts=1))
    async def handle(event: Lit):
        return "done"

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert letter.headers["Dead-Letter-Error"].startswith("TypeError: the handler returned str")


async def test_a_handler_that_is_cancelled_from_within_has_failed():
    bus, calls = make_bus(), []

    @bus.subscribe(Lit, durable="d", retry=AT_ONCE)
    async def handle(event: Lit, ctx: EventContext):
        calls.append(ctx.attempt)
        if ctx.attempt == 1:
            raise asyncio.CancelledError
        if ctx.attempt == 2:
            task = asyncio.create_task(asyncio.sleep(10))
            task.cancel()
            await task

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        assert calls == [1, 2, 3]
        assert await dead_letters(bus) == []
        health = await bus.health()
        assert health.ok
        assert health.subscriptions[0].running


async def test_a_handler_that_cancels_its_own_task_does_not_stop_the_others():
    bus, handled = make_bus(), []

    @bus.subscribe(Lit, durable="d", concurrency=1, retry=AT_ONCE)
    async def handle(event: Lit):
        if event.number == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        handled.append(event.number)

    await bus.connect()
    await bus.publish_many([Lit(lamp="a", number=number) for number in range(10)])
    async with running(bus):
        await bus.transport.drained()
        assert sorted(handled) == list(range(1, 10))
        (letter,) = await dead_letters(bus)
        assert letter.headers["Dead-Letter-Sequence"] == "1"


@KEPT
async def test_what_is_no_exception_is_a_failure_all_the_same(per_key):
    """pytest.fail(), for one, raises what is none."""
    bus, handled = make_bus(), []

    @bus.subscribe(Lit, durable="d", retry=AT_ONCE, per_key=per_key)
    async def handle(event: Lit):
        if event.number == 0:
            pytest.fail("not this one")
        handled.append(event.number)

    async with running(bus):
        await bus.publish_many([Lit(lamp="a", number=number) for number in range(3)])
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert letter.headers["Dead-Letter-Error"] == "Failed: not this one"
    assert handled == [1, 2]


class Bill(EventHandler[Lit]):
    def __init__(self, decide):
        self.decide = decide
        self.errors = []

    async def on_event(self, event: Lit, ctx: EventContext) -> None:
        raise KeyError(event.lamp)

    async def on_error(self, error: Exception, ctx: EventContext):
        self.errors.append((type(error), ctx.attempt))
        return self.decide(error)


async def test_a_class_may_decide_about_its_errors():
    for decide, attempts, letters in [
        (lambda error: None, 3, 1),
        (lambda error: Reject("mine"), 1, 1),
        (lambda error: Ack(), 1, 0),
        (lambda error: RetryLater(0), 3, 1),
    ]:
        bus, handler = make_bus(), Bill(decide)
        bus.add(handler, durable="d", retry=AT_ONCE)
        async with running(bus):
            await bus.publish(Lit(lamp="a"))
            await bus.transport.drained()
            assert handler.errors == [(KeyError, at + 1) for at in range(attempts)]
            assert len(await dead_letters(bus)) == letters


async def test_when_on_error_fails_the_message_is_tried_again(caplog):
    bus = make_bus()

    def decide(error):
        raise ZeroDivisionError

    handler = Bill(decide)
    bus.add(handler, durable="d", retry=AT_ONCE)
    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert len(handler.errors) == 3
    assert letter.headers["Dead-Letter-Error"] == "ZeroDivisionError"
    assert "KeyError" in caplog.text  # the first failure is in the traceback


async def test_a_wrong_answer_of_on_error_acknowledges_nothing():
    bus = make_bus()
    bus.add(Bill(lambda _: True), Lit, durable="d", retry=AT_ONCE)
    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        (letter,) = await dead_letters(bus)
    assert letter.headers["Dead-Letter-Error"].startswith("TypeError: on_error returned bool")


async def test_several_types_in_one_subscription():
    bus, seen = make_bus(), []

    @bus.subscribe(durable="d")
    async def handle(event: Lit | Dimmed):
        seen.append(type(event))

    async with running(bus):
        await bus.publish_many([Lit(lamp="a"), Dimmed(lamp="a")])
        await bus.transport.drained()
    assert sorted(seen, key=str) == sorted([Lit, Dimmed], key=str)


async def test_commands_are_handled_as_events_are():
    transport = InMemoryTransport()
    bus, seen = make_bus(transport), []

    @bus.subscribe(Light, durable="d")
    async def handle(command: Light, ctx: EventContext):
        seen.append(ctx.message_id)

    async with running(bus):
        other = make_bus(InMemoryTransport(transport.broker), service="doors")
        async with other:
            for _ in range(2):
                await other.send(Light(lamp="a"), idempotency_key="k-1")
        await transport.drained()
    assert seen == ["k-1"]


async def test_each_attempt_is_an_operation_and_failures_are_logged(caplog):
    bus, kept = make_bus(), Kept()

    @bus.subscribe(Lit, durable="d", retry=Retry(attempts=2, backoff=Constant(0)))
    async def handle(event: Lit, ctx: EventContext):
        if event.lamp == "bad":
            raise NotFoundError("gone")

    with observe(kept), caplog.at_level(logging.WARNING):
        async with running(bus):
            await bus.publish(Lit(lamp="good"))
            await bus.transport.drained()
            await bus.publish(Lit(lamp="bad"))
            await bus.transport.drained()
    processed = [op for op in kept.ops if op[0] == "messaging.process"]
    assert [op[1:4] for op in processed] == [
        ("lamp.lit", "ok", None),
        ("lamp.lit", "error", "RETRY_LATER"),
        ("lamp.lit", "error", "RETRY_LATER"),
    ]
    attributes = processed[1][4]
    assert attributes["messaging.system"] == "memory"
    assert attributes["messaging.consumer.group.name"] == "d"
    assert attributes["messaging.message.attempt"] == 1
    assert attributes["messaging.outcome"] == "retry"
    assert [op[1:3] for op in kept.ops if op[0] == "messaging.settle"] == [("dead_letter", "ok")]
    assert caplog.text.count("of lamp.lit failed: NotFoundError: gone") == 2
    assert "became a dead letter after 2 attempts" in caplog.text


@KEPT
async def test_middleware_surrounds_the_handler_and_its_errors_are_failures(per_key):
    bus, seen = make_bus(), []

    async def outer(ctx, call_next):
        seen.append(("outer", ctx.attempt))
        outcome = await call_next(ctx)
        seen.append(("left", outcome))
        return outcome

    async def inner(ctx, call_next):
        if ctx.attempt == 1:
            raise KeyError
        await call_next(ctx)
        return Reject("by middleware")

    @bus.subscribe(Lit, durable="d", middleware=[outer, inner], retry=AT_ONCE, per_key=per_key)
    async def handle(event: Lit):
        seen.append("handler")

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        assert len(await dead_letters(bus)) == 1
    expected = [("outer", 1), ("outer", 2), "handler", ("left", Reject("by middleware"))]
    assert seen == expected


async def test_what_the_broker_gave_up_is_a_dead_letter_without_being_handled():
    """As when even its delivery kills the process."""
    transport = InMemoryTransport()
    bus, calls = make_bus(transport), []

    @bus.subscribe(Lit, durable="d", retry=Retry(attempts=3))
    async def handle(event: Lit):
        calls.append(event)

    (subscription,) = bus.subscriptions
    spec = subscription.spec(STREAMS)
    async with bus:
        await bus.publish(Lit(lamp="a"))
    for _ in range(spec.max_deliver):
        doomed = InMemoryTransport(transport.broker)
        await doomed.open()
        consumer = await doomed.consume(spec)
        await consumer.receive()
        doomed.crash()
        transport.broker.advance(spec.ack_wait + 1)
    async with running(bus):
        await transport.drained()
        (letter,) = await dead_letters(bus)
    assert calls == []
    assert letter.headers["Dead-Letter-Reason"] == "exhausted"


async def test_where_the_broker_knows_no_delay_a_message_waits_here():
    class NoDelay(Recorded):
        capabilities = InMemoryTransport.capabilities - {"delayed_retry"}

    transport = NoDelay()
    bus, attempts = make_bus(transport), []

    @bus.subscribe(Lit, durable="d", retry=AT_ONCE)
    async def handle(event: Lit, ctx: EventContext):
        attempts.append(ctx.attempt)
        raise ConnectionError

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await transport.drained()
    assert attempts == [1, 2, 3]
    assert [what for what, _ in transport.settled] == ["stored", "term"]


async def test_a_message_that_waits_for_its_next_attempt_is_handed_back_when_the_bus_stops():
    transport = Recorded()
    bus = make_bus(transport)
    retry = Retry(attempts=9, backoff=Constant(600), jitter=False)

    @bus.subscribe(Lit, durable="d", retry=retry, per_key=True)
    async def handle(event: Lit):
        raise ConnectionError

    async with running(bus):
        await bus.publish_many([Lit(lamp="a", number=at) for at in range(3)])
        (consuming,) = bus._life._consuming
        await until(lambda: consuming._dispatcher._sleeping and consuming.in_hand == 3)
    assert transport.settled == [("nak", 0.0)] * 3
    # All of them, in order, are there for the next process.
    later, seen = make_bus(InMemoryTransport(transport.broker)), []

    @later.subscribe(Lit, durable="d", per_key=True)
    async def again(event: Lit):
        seen.append(event.number)

    async with running(later):
        await later.transport.drained()
    assert seen == [0, 1, 2]


async def test_with_one_attempt_what_was_handed_back_unhandled_is_handled_once_more():
    transport = InMemoryTransport()
    handled: list[int] = []
    for life in range(2):
        bus = make_bus(InMemoryTransport(transport.broker))
        release = asyncio.Event()

        @bus.subscribe(Lit, durable="d", concurrency=2, retry=Retry(attempts=1))
        async def handle(event: Lit, release=release):
            await release.wait()
            handled.append(event.number)

        await bus.start()
        if life == 0:
            await bus.publish_many([Lit(lamp="a", number=number) for number in range(40)])
            await until(lambda bus=bus: bus._life._consuming[0].in_hand == 40)
            dispatcher = bus._life._consuming[0]._dispatcher
            stopping = asyncio.create_task(bus.stop())
            await until(dispatcher.halted)
            release.set()
            await stopping
        else:
            release.set()
            await bus.transport.drained()
            assert await dead_letters(bus) == []
            await bus.stop()
        if life == 0:
            assert handled == [0, 1]
    assert sorted(handled) == list(range(40))


async def test_what_comes_again_does_not_always_wait_behind_the_same():
    """A message that kills its process at once does not take all with it that came with it."""
    transport = InMemoryTransport()
    handled: list[int] = []
    letters = []
    for life in range(31):
        transport = InMemoryTransport(transport.broker)
        bus = make_bus(transport)
        died = asyncio.Event()

        @bus.subscribe(Lit, durable="d", concurrency=1, retry=Retry(attempts=30), ack_wait=30)
        async def handle(event: Lit, died=died, transport=transport):
            if event.number == 0:
                died.set()
                transport.crash()
                await asyncio.Event().wait()
            handled.append(event.number)

        await bus.connect()
        if life == 0:
            await bus.publish_many([Lit(lamp="a", number=number) for number in range(20)])
        await bus.start()
        if life < 30:
            await died.wait()
            await bus.stop(drain=0)
            transport.broker.advance(31)
        else:
            await transport.drained()
            letters = await dead_letters(bus)
            await bus.stop()
    assert [letter.headers["Dead-Letter-Sequence"] for letter in letters] == ["1"]
    assert sorted(set(handled)) == list(range(1, 20))


@pytest.mark.parametrize("how", ["raises", "gives up", "swallows"])
async def test_a_shutdown_is_no_fault_of_the_message(how):
    transport = Recorded()
    bus, started = make_bus(transport), asyncio.Event()

    @bus.subscribe(Lit, durable="d", retry=Retry(attempts=1))
    async def handle(event: Lit):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "raises":
                raise RuntimeError("interrupted") from None
            if how == "gives up":
                raise ValidationError("interrupted") from None

    async with running(bus, drain=0.01):
        await bus.publish(Lit(lamp="a"))
        await started.wait()
    settled = [what for what, _ in transport.settled]
    assert settled == (["ack"] if how == "swallows" else ["nak"])


async def test_a_transport_that_fails_to_settle_does_not_end_the_bus(caplog):
    class Failing(InMemoryTransport):
        fails = True

        async def consume(self, spec):
            consumer: Any = await super().consume(spec)
            receive = consumer.receive

            async def failing():
                found = await receive()
                return [_Failing(each, self) for each in found]

            consumer.receive = failing
            return consumer

    class _Failing(_Recording):
        async def ack(self):
            if self._log.fails:
                self._log.fails = False
                raise ConnectionError
            await self._delivery.ack()

    transport = Failing()
    bus, seen = make_bus(transport), []

    @bus.subscribe(Lit, durable="d", concurrency=1)
    async def handle(event: Lit, ctx: EventContext):
        seen.append((event.lamp, ctx.attempt))

    async with running(bus):
        await bus.publish_many([Lit(lamp="a"), Lit(lamp="b")])
        await until(lambda: len(seen) == 2)
        transport.broker.advance(31)
        await transport.drained()
    assert seen == [("a", 1), ("b", 1), ("a", 2)]
    assert "will come again" in caplog.text
