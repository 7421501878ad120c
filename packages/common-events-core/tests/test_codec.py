# This file gives wrong values on purpose.
# pyright: reportArgumentType=false

"""What is written is a CloudEvent, and nothing that came from outside breaks out of it."""

import json
import warnings
from datetime import UTC, datetime, timedelta, timezone

import pytest

from common.context import Context, Trace, bind, new_trace
from common.domain import Event, InvalidMessageError, Message, Registry, Text
from common.domain.calls import CallCompleted, CallStatus
from common.events.core._codec import Codec
from common.events.core._decoder import Decoder
from common.events.core._envelope import MAX_BODY
from common.events.core._errors import MessageTooLarge

REGISTRY = Registry()


class Noted(Event, type="note.noted", version=3, oldest=3, key=("book", "page"), registry=REGISTRY):
    book: str | None
    page: str
    text: Text = ""


class Stored(Event, type="blob.stored", registry=REGISTRY):
    content: str


EVENT = CallCompleted(
    call_id="c-1", phone_number="+4930901820", duration_seconds=7, status=CallStatus.COMPLETED
)
codec = Codec(source="/calls")


def encoded(message=EVENT, *, codec=codec, **options):
    body, headers = codec.encode(message, **{"id": "m-1", **options})
    assert not headers
    return json.loads(body)


def test_a_structured_body_has_every_attribute_once_in_its_place():
    now = datetime(2024, 5, 6, 7, 8, 9, 123_000, tzinfo=timezone(timedelta(hours=2)))
    trace = Trace("a" * 32, "b" * 16, 1, (("k", "v"),))
    context = Context(correlation_id="r-1", tenant="t-1", trace=trace)
    found = encoded(time=now, causation_id="m-0", context=context)
    traceparent = found.pop("traceparent")
    assert found == {
        "specversion": "1.0",
        "id": "m-1",
        "type": "call.completed",
        "source": "/calls",
        "subject": "c-1",
        "time": "2024-05-06T05:08:09.123000Z",
        "dataschema": "urn:common:call.completed/1",
        "datacontenttype": "application/json",
        "correlationid": "r-1",
        "causationid": "m-0",
        "tenant": "t-1",
        "tracestate": "k=v",
        "data": json.loads(EVENT.model_dump_json()),
    }
    assert traceparent.startswith(f"00-{'a' * 32}-")
    assert traceparent.endswith("-01")


def test_the_key_of_several_fields_and_the_version_are_told():
    found = encoded(Noted(book="a/b", page="1"), codec=Codec(source="x", registry=REGISTRY))
    assert (found["subject"], found["dataschema"]) == ("a~1b/1", "urn:common:note.noted/3")


@pytest.mark.parametrize("message", [Noted(book=None, page="1"), Stored(content="")])
def test_without_a_key_there_is_no_subject(message):
    assert "subject" not in encoded(message)


def test_a_key_cannot_break_out_of_its_attribute():
    hostile = 'x","type":"y\\\n\0\u2028é😀'
    found = encoded(CallCompleted(**{**EVENT.model_dump(), "call_id": hostile}), id='"},{"a":"\\')
    assert (found["subject"], found["type"], found["id"]) == (
        hostile,
        "call.completed",
        '"},{"a":"\\',
    )


def test_the_current_context_is_taken_unless_one_is_given():
    with bind(correlation_id="here", tenant="t-1"):
        assert (encoded()["correlationid"], encoded()["tenant"]) == ("here", "t-1")
        other = encoded(context=Context(correlation_id="there"))
    assert other["correlationid"] == "there"
    assert "tenant" not in other


@pytest.mark.parametrize("correlation_id", [None, "", "x" * 257, "a\nb"])
def test_a_message_without_a_usable_correlation_id_starts_a_chain(correlation_id):
    assert encoded(context=Context(correlation_id=correlation_id))["correlationid"] == "m-1"


def test_a_publish_is_a_span_of_its_own_in_the_contexts_trace():
    trace = new_trace(sampled=True)
    first, second = (encoded(context=Context(trace=trace))["traceparent"] for _ in range(2))
    assert first[:36] == second[:36] == trace.traceparent[:36]
    assert first[52:] == trace.traceparent[52:]
    assert len({first[36:52], second[36:52], trace.span_id}) == 3


def test_the_span_of_a_tracing_system_is_named_as_it_is():
    trace = new_trace()
    found = encoded(context=Context(trace=trace), span=False)
    assert found["traceparent"] == trace.traceparent


def test_without_a_trace_an_unsampled_one_is_started():
    first, second = (
        Decoder([CallCompleted]).decode("evt.call.completed", {}, codec.encode(EVENT, id="1")[0])[0]
        for _ in range(2)
    )
    assert first.trace is not None
    assert second.trace is not None
    assert first.trace.trace_id != second.trace.trace_id
    assert (first.trace.sampled, first.trace.random) == (False, True)
    assert first.tracestate is None


def test_the_time_is_now_with_six_digits():
    before = datetime.now(UTC)
    times = [encoded()["time"] for _ in range(3)]
    after = datetime.now(UTC)
    read = [datetime.fromisoformat(time) for time in times]
    assert before - timedelta(microseconds=1) <= read[0] <= read[1] <= read[2] <= after
    assert all(len(time) == len("2024-05-06T05:08:09.123000Z") for time in times)


@pytest.mark.parametrize("id", ["", "x" * 257, "a\nb", "a\0", "é", "\ud800"])
def test_an_id_that_no_header_could_carry_is_refused(id):  # noqa: A002
    with pytest.raises(ValueError, match="message id"):
        codec.encode(EVENT, id=id)


def test_what_was_read_can_be_sent_on():
    odd = "a\u00a0b\u2028c"
    body, _ = codec.encode(EVENT, id="m-1", context=Context(tenant=odd, correlation_id=odd))
    envelope, _ = Decoder([CallCompleted]).decode("evt.call.completed", {}, body)
    assert (envelope.tenant, envelope.correlation_id) == (odd, odd)


@pytest.mark.parametrize("tenant", ["", "x" * 257, "a\r\nb", "a\x85b", "a\ud800"])
def test_a_tenant_is_never_left_out_silently(tenant):
    with pytest.raises(ValueError, match="tenant"):
        codec.encode(EVENT, id="m-1", context=Context(tenant=tenant))


def test_what_could_not_be_read_is_not_written():
    with pytest.raises(ValueError, match="key"):
        codec.encode(Noted(book="x" * 2000, page="1"), id="m-1")
    with pytest.raises(ValueError, match="offset"):
        codec.encode(EVENT, id="m-1", time=datetime(2024, 1, 1))  # noqa: DTZ001
    with pytest.raises(MessageTooLarge) as caught:
        codec.encode(Stored(content="x" * MAX_BODY), id="m-1")
    assert caught.value.limit == MAX_BODY


def test_a_message_made_without_validation_is_refused_without_quoting_it():
    for wrong in ({"phone_number": ["secret"]}, {"call_id": "secret\ud800"}, {"status": object()}):
        with (
            warnings.catch_warnings(record=True) as caught,
            pytest.raises(InvalidMessageError) as refused,
        ):
            codec.encode(EVENT.model_copy(update=wrong), id="m-1")
        assert not caught
        error = refused.value
        assert "secret" not in f"{error!r} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.parametrize("message", ["text", None, {"call_id": "c-1"}])
def test_what_is_no_message_is_refused(message):
    with pytest.raises(TypeError, match="no declared message"):
        codec.encode(message, id="m-1")


def test_an_abstract_class_is_refused():
    class Abstract(Event):
        pass

    with pytest.raises(TypeError, match="no declared message"):
        codec.encode(Abstract(), id="m-1")
    with pytest.raises(TypeError, match="no declared message"):
        codec.encode(Message(), id="m-1")


@pytest.mark.parametrize("source", ["", "x" * 1025, "/a b\n", "/ü"])
def test_a_source_that_is_no_uri_is_refused_at_construction(source):
    with pytest.raises(ValueError, match="source"):
        Codec(source=source)


def test_an_unknown_mode_is_refused_at_construction():
    with pytest.raises(ValueError, match="mode"):
        Codec(source="/x", mode="avro")  # type: ignore[arg-type]
