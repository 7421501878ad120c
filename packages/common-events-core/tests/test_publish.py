# This file gives wrong values on purpose.
# pyright: reportArgumentType=false

"""Publishing: who may, under which id, and that every failure shows."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from common.context import Context, bind, current, new_trace, observe
from common.domain import (
    Command,
    Event,
    Keyed,
    PublishNotAllowedError,
    Registry,
    Stream,
    Streams,
    UnknownStreamError,
)
from common.events.core import (
    Codec,
    Envelope,
    EventContext,
    Failed,
    InMemoryTransport,
    PublishConfig,
    Published,
    Publisher,
    PublishError,
    PublishRejected,
    PublishTimeout,
    StreamSpec,
    TransportClosed,
)
from common.events.core._event_context import in_hand

REGISTRY = Registry()
STREAMS = Streams(
    [Stream("LAMP", ("lamp",)), Stream("DOOR", ("door",))],
    services={"lamps": ["LAMP"], "doors": ["DOOR"]},
)


class Lit(Event, type="lamp.lit", key="lamp", registry=REGISTRY):
    lamp: str


class Paid(Event, type="lamp.paid", registry=REGISTRY):
    idempotency_key: str | None = None


class Owed(Event, type="lamp.owed", registry=REGISTRY):
    idempotency_key: str


class Opened(Event, type="door.opened", registry=REGISTRY):
    door: str


class Open(Command, type="door.open", registry=REGISTRY):
    door: str


class Stray(Event, type="stray.lost", registry=REGISTRY):
    pass


class Recorder:
    def __init__(self, trace=None):
        self.operations = []
        self.trace = trace

    def on_start(self, op):
        if self.trace is not None:
            bind(trace=self.trace).__enter__()

    def on_end(self, op):
        self.operations.append(
            SimpleNamespace(
                name=op.name, outcome=op.outcome, code=op.error_code, attributes=dict(op.attributes)
            )
        )


@pytest.fixture
async def transport():
    async with InMemoryTransport() as transport:
        await transport.declare([StreamSpec.of(stream) for stream in STREAMS], mode="create")
        yield transport


@pytest.fixture
def publisher(transport):
    return make(transport)


def make(transport, service="lamps", **config):
    return Publisher(
        transport,
        Codec(source=f"/{service}", registry=REGISTRY),
        service=service,
        streams=STREAMS,
        config=PublishConfig(**config),
    )


async def stored(transport, stream="LAMP"):
    return [json.loads(message.data) for message in await transport.browse(stream)]


async def test_a_published_event_is_stored_in_its_stream(transport, publisher):
    receipt = await publisher.publish(Lit(lamp="l-1"))
    assert (receipt.stream, receipt.sequence, receipt.duplicate) == ("LAMP", 1, False)
    (found,) = await transport.browse("LAMP")
    assert found.subject == "evt.lamp.lit"
    body = json.loads(found.data)
    assert (body["id"], body["subject"], body["source"]) == (receipt.id, "l-1", "/lamps")
    assert "causationid" not in body


async def test_an_event_of_anothers_stream_cannot_leave(transport, publisher):
    with pytest.raises(PublishNotAllowedError):
        await publisher.publish(Opened(door="d-1"))
    with pytest.raises(PublishNotAllowedError):
        publisher.encode(Opened(door="d-1"))
    with pytest.raises(UnknownStreamError):
        await publisher.publish(Stray())
    assert await stored(transport, "DOOR") == []


async def test_a_command_may_go_to_anothers_stream(transport, publisher):
    assert (await publisher.publish(Open(door="d-1"))).stream == "DOOR"


@pytest.mark.parametrize(
    ("message", "name", "expected"),
    [
        (Lit(lamp="1"), "given", "given"),
        (Keyed(Lit(lamp="1"), "key"), None, "key"),
        (Keyed(Lit(lamp="1"), "key"), "given", "given"),
        (Paid(idempotency_key="field"), None, "field"),
        (Paid(idempotency_key="field"), "given", "given"),
    ],
)
async def test_the_idempotency_key_is_the_message_id(publisher, message, name, expected):
    first = await publisher.publish(message, id=name)
    second = await publisher.publish(message, id=name)
    assert (first.id, first.duplicate) == (expected, False)
    assert (second.id, second.duplicate, second.sequence) == (expected, True, first.sequence)
    assert publisher.encode(message, id=name).id == expected


async def test_without_a_key_every_publish_has_a_new_id(publisher):
    ids = {(await publisher.publish(Paid())).id for _ in range(3)}
    assert len(ids) == 3


async def test_what_a_handler_publishes_names_its_cause(transport, publisher):
    envelope = Envelope(id="m-0", type="lamp.lit", source="/x")
    context = EventContext(Lit(lamp="1"), envelope, None, consumer="c", attempt=1)  # type: ignore[arg-type]
    token = in_hand.set(context)
    try:
        with bind(correlation_id="r-1"):
            await publisher.publish(Lit(lamp="1"))
    finally:
        in_hand.reset(token)
    await publisher.publish(Lit(lamp="1"))
    caused, free = await stored(transport)
    assert (caused["causationid"], caused["correlationid"]) == ("m-0", "r-1")
    assert "causationid" not in free


async def test_without_an_observer_a_publish_is_a_span_of_its_own(transport, publisher):
    trace = new_trace()
    with bind(trace=trace):
        await publisher.publish(Lit(lamp="1"))
        await publisher.publish_many([Lit(lamp="1")])
    parents = {body["traceparent"] for body in await stored(transport)}
    assert len(parents) == 2
    assert all(parent[:36] == trace.traceparent[:36] for parent in parents)
    assert trace.traceparent not in parents


async def test_the_span_an_observer_set_is_the_messages_parent(transport, publisher):
    mine = new_trace()
    with observe(Recorder(trace=mine)), bind(trace=new_trace()):
        await asyncio.create_task(publisher.publish(Lit(lamp="1")))
        await asyncio.create_task(publisher.publish_many([Lit(lamp="1")]))
    assert {body["traceparent"] for body in await stored(transport)} == {mine.traceparent}
    assert current() == Context()


async def test_a_publish_is_an_operation(publisher):
    recorder = Recorder()
    with observe(recorder):
        receipt = await publisher.publish(Lit(lamp="1"))
    (op,) = recorder.operations
    assert (op.name, op.outcome) == ("evt.lamp.lit", "ok")
    assert op.attributes["messaging.system"] == "memory"
    assert op.attributes["messaging.destination.name"] == "evt.lamp.lit"
    assert op.attributes["messaging.message.id"] == receipt.id
    assert op.attributes["messaging.message.body.size"] > 100


async def test_failures_are_raised_by_default(transport, publisher):
    error = PublishRejected("no")
    with transport.failing(error), pytest.raises(PublishRejected) as caught:
        await publisher.publish(Lit(lamp="1"))
    assert caught.value is error
    with pytest.raises(PublishTimeout):
        await publisher.publish(Lit(lamp="1"), timeout=0)


async def test_a_soft_failure_is_a_value_and_is_counted(transport, publisher):
    recorder = Recorder()
    with observe(recorder), transport.failing(PublishRejected("no")):
        result = await publisher.publish(Lit(lamp="1"), on_error="soft", id="m-1")
    assert isinstance(result, Failed)
    assert (result.ok, result.message_id, result.type) == (False, "m-1", "lamp.lit")
    assert isinstance(result.error, PublishRejected)
    assert [(op.outcome, op.code) for op in recorder.operations] == [("error", "PUBLISH_REJECTED")]


async def test_a_soft_failure_tells_the_id_the_message_went_out_under(transport, publisher):
    with transport.failing(PublishTimeout("late")):
        result = await publisher.publish(Lit(lamp="1"), on_error="soft")
    assert isinstance(result, Failed)
    assert result.message_id
    again = await publisher.publish(Lit(lamp="1"), id=result.message_id)
    assert again.id == result.message_id


async def test_soft_publishing_never_raises(publisher):
    await publisher._transport.close()
    for message, code in [
        (Lit(lamp="1"), "TRANSPORT_CLOSED"),
        (Opened(door="1"), "PUBLISH_NOT_ALLOWED"),
        (Stray(), "UNKNOWN_STREAM"),
        (Lit(lamp="x" * 5000), "PUBLISH_FAILED"),
        (Keyed(Lit(lamp="1"), "bad\nid"), "PUBLISH_FAILED"),
        ("no message", "PUBLISH_FAILED"),
        (Owed.model_construct(), "TRANSPORT_CLOSED"),
    ]:
        result = await publisher.publish(message, on_error="soft")
        assert isinstance(result, Failed)
        assert result.error.code == code


async def test_a_soft_success_has_the_receipt(publisher):
    result = await publisher.publish(Lit(lamp="1"), on_error="soft")
    assert isinstance(result, Published)
    assert (result.ok, result.receipt.stream) == (True, "LAMP")


async def test_cancelling_is_no_failure(transport, publisher):
    async def stuck(*_, **__):
        await asyncio.Event().wait()

    transport.publish = stuck
    recorder = Recorder()
    with observe(recorder):
        task = asyncio.create_task(publisher.publish(Lit(lamp="1"), on_error="soft"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [op.outcome for op in recorder.operations] == ["cancelled"]


async def test_many_have_one_result_each_in_their_order(transport, publisher):
    lamps: list[Any] = [Lit(lamp=str(number)) for number in range(600)]
    lamps[7:7] = [Opened(door="1")]
    lamps[9:9] = ["no message"]
    lamps.append(Keyed(Lit(lamp="600"), "key"))
    recorder = Recorder()
    with observe(recorder):
        report = await publisher.publish_many(lamps)
    assert len(report.results) == len(lamps) == 603
    assert [position for position, each in enumerate(report.results) if not each.ok] == [7, 9]
    assert [failed.error.code for failed in report.failed] == [
        "PUBLISH_NOT_ALLOWED",
        "PUBLISH_FAILED",
    ]
    assert len(report.published) == 601
    assert report.published[-1].receipt.id == "key"
    bodies = [json.loads(m.data) for m in await transport.browse("LAMP", limit=1000)]
    assert [body["subject"] for body in bodies] == [str(number) for number in range(601)]
    (op,) = recorder.operations
    assert (op.outcome, op.code) == ("error", "PUBLISH_NOT_ALLOWED")
    assert op.attributes["messaging.batch.message_count"] == 603
    assert op.attributes["messaging.batch.failed_count"] == 2


async def test_a_report_raises_for_its_failures(transport, publisher):
    with transport.failing(PublishTimeout("late"), subject="evt.lamp.paid"):
        report = await publisher.publish_many([Lit(lamp="1"), Paid(idempotency_key="p-1"), Paid()])
    with pytest.raises(PublishError, match="2 of 3 messages") as caught:
        report.raise_for_failures()
    assert (caught.value.message_id, caught.value.retryable) == ("p-1", True)
    assert isinstance(caught.value.__cause__, PublishTimeout)
    (await publisher.publish_many([Lit(lamp="1")])).raise_for_failures()
    assert (await publisher.publish_many([])).results == []


async def test_many_on_a_closed_transport_send_nothing(publisher):
    await publisher._transport.close()
    with pytest.raises(TransportClosed):
        await publisher.publish_many([Lit(lamp="1")])


async def test_a_message_can_be_encoded_now_and_published_later(transport, publisher):
    with bind(correlation_id="r-1", tenant="t-1"):
        outgoing = publisher.encode(Lit(lamp="1"))
    assert (outgoing.subject, outgoing.stream, outgoing.key) == ("evt.lamp.lit", "LAMP", "1")
    (result,) = await publisher.deliver([outgoing])
    assert result.ok
    (body,) = await stored(transport)
    assert (body["id"], body["correlationid"], body["tenant"]) == (outgoing.id, "r-1", "t-1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"batch_size": 0},
        {"flush_interval": 0},
        {"flush_interval": float("nan")},
        {"max_buffered": 0},
        {"max_bufered": 1},
    ],
)
def test_a_wrong_configuration_fails_at_construction(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PublishConfig(**wrong)
