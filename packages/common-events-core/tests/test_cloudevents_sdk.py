"""The SDK of the CloudEvents project reads what is written here, and the other way round."""

import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1 import event as v1

from common.context import Context, new_trace
from common.domain.calls import CallCompleted, CallStatus
from common.events.core._codec import Codec
from common.events.core._decoder import Decoder

EVENT = CallCompleted(
    call_id='c-1 "ü"', phone_number="+4930901820", duration_seconds=7, status=CallStatus.COMPLETED
)
SUBJECT = "evt.call.completed"
TIME = datetime(2024, 5, 6, 7, 8, 9, 123_000, tzinfo=UTC)
TRACE = new_trace()
CONTEXT = Context(correlation_id="r-1", tenant="t-1 €", trace=TRACE)
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "m-1",
    "source": "/calls",
    "type": "call.completed",
    "subject": 'c-1 "ü"',
    "time": TIME,
    "dataschema": "urn:common:call.completed/1",
    "datacontenttype": "application/json",
    "correlationid": "r-1",
    "causationid": "m-0",
    "tenant": "t-1 €",
}


def encode(mode):
    codec = Codec(source="/calls", mode=mode)
    return codec.encode(EVENT, id="m-1", time=TIME, causation_id="m-0", context=CONTEXT)


def check(event):
    attributes = event.get_attributes()
    assert attributes.pop("traceparent").startswith(TRACE.traceparent[:36])
    assert attributes == ATTRIBUTES
    assert event.get_data() == EVENT.model_dump(mode="json")


def test_the_sdk_reads_structured_mode():
    body, _ = encode("structured")
    headers = {"content-type": "application/cloudevents+json"}
    check(http.from_structured_event(http.HTTPMessage(headers=headers, body=body)))


def test_the_sdk_reads_binary_mode():
    body, headers = encode("binary")
    # HTTP has a header of its own for the content type.
    headers = {**headers, "content-type": headers["ce-datacontenttype"]}
    del headers["ce-datacontenttype"]
    check(http.from_binary_event(http.HTTPMessage(headers=headers, body=body)))


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_what_the_sdk_writes_is_read(mode):
    data = json.loads(EVENT.model_dump_json())
    event = v1.CloudEvent({**ATTRIBUTES, "comexampleother": "50 %"}, data)
    written = (
        http.to_structured_event(event) if mode == "structured" else http.to_binary_event(event)
    )
    envelope, message = Decoder([CallCompleted]).decode(SUBJECT, written.headers, written.body)
    assert message == EVENT
    assert (envelope.id, envelope.time, envelope.version) == ("m-1", TIME, 1)
    assert (envelope.subject, envelope.tenant) == (ATTRIBUTES["subject"], "t-1 €")
    assert (envelope.correlation_id, envelope.causation_id) == ("r-1", "m-0")
    assert envelope.extensions == {"comexampleother": "50 %"}
