"""What is declared wrongly is told when it is declared, and what to do about it."""

import runpy
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pytest

from common.domain import Event
from common.events.core import (
    EventContext,
    EventHandler,
    HandlerError,
    Inject,
    InMemoryTransport,
)

if TYPE_CHECKING:
    from decimal import Decimal

if TYPE_CHECKING:
    from bus_support import STREAMS, Dimmed, Lit, Opened, make_bus, running
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("bus_support.py")))["shared"])


class Database:
    def __init__(self, name="db"):
        self.name = name


class Replica(Database):
    pass


def not_async(event: Lit): ...


async def nothing(): ...


async def no_annotation(event): ...


async def no_message(event: int): ...


async def unknown_parameter(event: Lit, db: Database): ...


async def no_parameter_annotation(event: Lit, db): ...


async def var_args(event: Lit, *rest: object): ...


async def positional(event: Lit, db: Annotated[Database, Inject], /): ...


async def keyword_only(*, event: Lit): ...


async def hidden_import(event: Lit, price: "Decimal"): ...


async def other_type(event: Dimmed): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (not_async, "not_async is no coroutine function: declare it with async def"),
        (nothing, "let its first parameter take the message"),
        (keyword_only, "let its first parameter take the message"),
        (no_annotation, "annotate parameter 'event' with a message class"),
        (no_message, "annotated with <class 'int'>, which is no message class"),
        (unknown_parameter, r"Annotated\[Database, Inject\] and provide that: bus.provide"),
        (no_parameter_annotation, "what is parameter 'db'?"),
        (var_args, "name what the handler needs"),
        (positional, "move the / before it"),
        (hidden_import, "not under `if TYPE_CHECKING`"),
        (other_type, "takes Dimmed, but is subscribed to Lit: annotate"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_wrong_handlers(function, message):
    with pytest.raises(HandlerError, match=message):
        make_bus().subscribe(Lit, durable="d")(function)


async def takes_any(event: Event): ...


@pytest.mark.parametrize(
    ("types", "options", "message"),
    [
        ((), {}, "to what is it subscribed?"),
        ((int,), {}, "int'> is no message class: give an Event or a Command"),
        (("lamp.lit",), {}, "'lamp.lit' is no message class"),
        ((Event,), {}, "Event is an abstract base without a type"),
        ((Lit, Opened), {}, "kept by several streams .Lit in LAMP, Opened in DOOR.: subscribe"),
        ((Lit,), {"durable": "a.b"}, "durable 'a.b': give 1 to 64 letters"),
        ((Lit,), {"durable": ""}, "durable ''"),
        ((Lit,), {"concurrency": 0}, "concurrency 0: give at least 1"),
        ((Lit,), {"concurrency": 9, "max_outstanding": 8}, "less than concurrency 9"),
        ((Lit,), {"unknown": "drop"}, "unknown='drop': give"),
        ((Lit,), {"timeout": 0}, "timeout 0: give more than 0 seconds"),
        ((Lit,), {"ack_wait": timedelta(seconds=-1)}, "ack_wait -1 day"),
        ((Lit,), {"extend_up_to": float("nan")}, "extend_up_to nan"),
        ((Lit,), {"give_up_on": ["ValueError"]}, "'ValueError' is no class of exceptions"),
    ],
    ids=str,
)
def test_wrong_subscriptions(types, options, message):
    with pytest.raises(HandlerError, match=message):
        make_bus().subscribe(*types, **{"durable": "d", **options})(takes_any)


def test_a_mistyped_option_is_refused():
    with pytest.raises(TypeError, match="concurency"):
        make_bus().subscribe(Lit, durable="d", concurency=3)(takes_any)


def test_a_type_no_stream_takes():
    from common.domain import Registry

    class Lost(Event, type="nowhere.lost", registry=Registry()): ...

    with pytest.raises(HandlerError, match=r"no stream takes 'nowhere\.lost'"):
        make_bus().subscribe(Lost, durable="d")(takes_any)


def test_two_subscriptions_of_one_name():
    bus = make_bus()
    bus.subscribe(Lit, durable="d")(takes_any)
    with pytest.raises(HandlerError, match="give each a name of its own"):
        bus.subscribe(Dimmed, durable="d")(other_type)


@pytest.mark.parametrize("given", [(), (Lit, Dimmed), ([Lit, Dimmed],), (Lit | Dimmed,)], ids=str)
def test_types_in_all_forms(given):
    bus = make_bus()

    @bus.subscribe(*given, durable="d")
    async def handle(event: Lit | Dimmed): ...

    (subscription,) = bus.subscriptions
    assert subscription.types == (Lit, Dimmed)
    spec = subscription.spec(STREAMS)
    assert spec.subjects == ("evt.lamp.lit", "evt.lamp.dimmed")
    assert (spec.stream, spec.durable, spec.ordered) == ("LAMP", "d", False)


def test_what_the_broker_is_asked_for():
    bus = make_bus()
    options = {"concurrency": 100, "per_key": True, "ack_wait": timedelta(minutes=1)}
    bus.subscribe(Lit, durable="d", deliver="new", **options)(takes_any)
    spec = bus.subscriptions[0].spec(STREAMS)
    assert (spec.ordered, spec.max_outstanding, spec.ack_wait) == (True, 400, 60.0)
    assert spec.deliver == "new"
    # The broker's own limit is a last resort: the bus gives up before.
    assert spec.max_deliver > bus.subscriptions[0].retry.attempts


def test_a_decorated_function_stays_callable():
    bus = make_bus()
    assert bus.subscribe(Lit, durable="d")(takes_any) is takes_any


class Typed(EventHandler[Lit]):
    async def on_event(self, event: Lit, ctx: EventContext) -> None: ...


class Wanting(EventHandler[Lit]):
    async def on_event(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, event: Lit, ctx: EventContext, db: Annotated[Database, Inject]
    ) -> None: ...


def test_class_based_handlers():
    bus = make_bus()
    bus.add(Typed(), durable="d")
    assert bus.subscriptions[0].types == (Lit,)
    for wrong, message in [
        (Typed, "Typed is a class: pass an instance"),
        (takes_any, "function is no EventHandler: derive it"),
        (Wanting(), "let the constructor take 'db'"),
    ]:
        with pytest.raises(HandlerError, match=message):
            bus.add(wrong, durable="e")


async def test_a_missing_dependency_fails_before_the_first_message():
    opened = []

    class Watched(InMemoryTransport):
        async def open(self):
            opened.append(True)
            await super().open()

    bus, calls = make_bus(Watched()), []

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit, db: Annotated[Database, Inject]):
        calls.append(db)

    with pytest.raises(
        HandlerError, match="handle: nothing is provided for parameter 'db'"
    ) as info:
        await bus.start()
    assert "bus.provide(…, as_=Database)" in str(info.value)
    with pytest.raises(HandlerError):
        await bus.run()
    assert opened == []  # nothing was connected

    bus.provide(Replica())
    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
    assert [type(each) for each in calls] == [Replica]


async def test_a_missing_name_is_told_with_what_there_is():
    bus = make_bus()

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit, url: Annotated[str, Inject("url")]): ...

    bus.provide("x", name="uri")
    with pytest.raises(HandlerError, match=r"bus.provide\(…, name='url'\).*provided is 'uri'"):
        await bus.start()


async def test_dependencies_by_type_name_and_default():
    bus, seen = make_bus(), []
    bus.provide(Database("main"))
    bus.provide(Database("other"), name="other")
    bus.provide("https://x", name="url")

    @bus.subscribe(Lit, durable="d")
    async def handle(
        event: Lit,
        db: Annotated[Database, Inject],
        ctx: EventContext,
        other: Annotated[Database, "documented", Inject("other")],
        *,
        url: Annotated[str, Inject("url")],
        missing: Annotated[int, Inject("missing")] = 7,
        plain: int = 8,
    ):
        seen.append((db.name, other.name, url, missing, plain, ctx.attempt))

    async with running(bus):
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
    assert seen == [("main", "other", "https://x", 7, 8, 1)]


async def test_dependencies_that_are_context_managers_live_as_long_as_the_bus():
    bus, log = make_bus(), []

    class Pool:
        async def __aenter__(self):
            log.append("open pool")
            return self

        async def __aexit__(self, *_):
            log.append("close pool")

    class Own(Pool):
        pass

    @asynccontextmanager
    async def connect():
        log.append("open")
        yield Database("yielded")
        log.append("close")

    bus.provide(Pool())
    bus.provide(Own(), enter=False)
    bus.provide(connect(), as_=Database)

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit, db: Annotated[Database, Inject], pool: Annotated[Pool, Inject]):
        log.append(db.name)

    async with running(bus):
        assert log == ["open pool", "open"]
        await bus.publish(Lit(lamp="a"))
        await bus.transport.drained()
        with pytest.raises(HandlerError, match="before the bus is started"):
            bus.provide(1)
        with pytest.raises(HandlerError, match="subscribe before the bus is started"):
            bus.subscribe(Lit, durable="x")(takes_any)
    assert log == ["open pool", "open", "yielded", "close", "close pool"]


async def test_when_a_dependency_cannot_be_entered_those_before_are_left():
    bus, log = make_bus(), []

    class Broken:
        async def __aenter__(self):
            raise ConnectionError

        async def __aexit__(self, *_):
            log.append("never")

    @asynccontextmanager
    async def connect():
        try:
            yield Database()
        finally:
            log.append("left")

    bus.provide(connect(), as_=Database)
    bus.provide(Broken())
    bus.subscribe(Lit, durable="d")(takes_any)
    with pytest.raises(ConnectionError):
        await bus.start()
    assert log == ["left"]
    assert not (await bus.transport.health()).ok


def test_wrong_provisions():
    bus = make_bus()
    bus.provide(Database())

    @asynccontextmanager
    async def connect():
        yield Database()

    for provide, message in [
        (partial(bus.provide, Database()), "Database is provided twice: give one of them a name"),
        (partial(bus.provide, 1, as_=int, name="x"), "not both"),
        (partial(bus.provide, connect()), "pass as_=… with its type, or name=…"),
    ]:
        with pytest.raises(HandlerError, match=message):
            provide()


async def test_a_choice_between_dependencies_is_not_guessed():
    bus = make_bus()

    class Second(Database):
        pass

    bus.provide(Replica())
    bus.provide(Second())

    @bus.subscribe(Lit, durable="d")
    async def handle(event: Lit, db: Annotated[Database, Inject]): ...

    with pytest.raises(HandlerError, match="may be any of Replica, "):
        await bus.start()
