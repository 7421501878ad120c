"""One pass for what is usual; the long way for versions, other senders, binary mode."""

import base64
import json
from datetime import UTC, datetime

import pytest

from common.domain import Event, Registry, upcast
from common.domain.calls import CallCompleted, CallStatus
from common.events.core._codec import Codec
from common.events.core._decoder import Decoder
from common.events.core._errors import HandlerError, UndecodableMessage

REGISTRY = Registry()


class TripEnded(Event, type="trip.ended", version=3, oldest=2, key="trip_id", registry=REGISTRY):
    trip_id: str
    # Version 2 had the same field, in kilometres.
    distance: float

    @upcast(2)
    @staticmethod
    def _kilometres_to_metres(data):
        data["distance"] *= 1000
        return data


class Kept1(Event, type="kept.apart", version=1, registry=REGISTRY):
    old: int


class Kept2(Event, type="kept.apart", version=2, oldest=2, registry=REGISTRY):
    new: int


EVENT = CallCompleted(
    call_id="c-1", phone_number="+4930901820", duration_seconds=7, status=CallStatus.COMPLETED
)
SUBJECT = "evt.call.completed"
BODY, _ = Codec(source="/calls").encode(EVENT, id="m-1")
decoder = Decoder([CallCompleted])


def body(**attributes):
    return json.dumps({**json.loads(BODY), **attributes}).encode()


def trip(version, **data):
    attributes = {
        "specversion": "1.0",
        "id": "m-1",
        "source": "/trips",
        "type": "trip.ended",
        "data": {"trip_id": "t-1", **data},
    }
    if version:
        attributes["dataschema"] = f"urn:common:trip.ended/{version}"
    return json.dumps(attributes, separators=(",", ":")).encode()


def test_an_old_version_is_upcast_although_it_fits_the_new_class():
    decoder = Decoder([TripEnded], registry=REGISTRY)
    old, message = decoder.decode("evt.trip.ended", {}, trip(2, distance=1.5))
    assert isinstance(message, TripEnded)
    assert (old.version, message.distance) == (2, 1500)
    new, message = decoder.decode("evt.trip.ended", {}, trip(3, distance=1.5))
    assert isinstance(message, TripEnded)
    assert (new.version, message.distance) == (3, 1.5)


@pytest.mark.parametrize("version", [1, 4, None])
def test_a_version_nobody_reads_is_unknown(version):
    decoder = Decoder([TripEnded], registry=REGISTRY)
    with pytest.raises(UndecodableMessage) as caught:
        decoder.decode("evt.trip.ended", {}, trip(version, distance=1.5))
    assert caught.value.reason == "unknown_version"


def test_an_upcaster_that_fails_is_invalid_data():
    with pytest.raises(UndecodableMessage) as caught:
        Decoder([TripEnded], registry=REGISTRY).decode("evt.trip.ended", {}, trip(2))
    assert caught.value.reason == "invalid_data"


def kept(version, **data):
    attributes = {"specversion": "1.0", "id": "1", "source": "/k", "type": "kept.apart"}
    return json.dumps(
        {**attributes, "dataschema": f"urn:common:kept.apart/{version}", "data": data}
    ).encode()


def test_several_classes_of_one_type_read_their_own_versions():
    both = Decoder([Kept1, Kept2], registry=REGISTRY)
    assert both.decode("evt.kept.apart", {}, kept(1, old=1))[1] == Kept1(old=1)
    assert both.decode("evt.kept.apart", {}, kept(2, new=2))[1] == Kept2(new=2)
    one = Decoder([Kept2], registry=REGISTRY)
    with pytest.raises(UndecodableMessage) as caught:
        one.decode("evt.kept.apart", {}, kept(1, old=1))
    assert caught.value.reason == "unknown_version"


def test_a_class_of_another_registry_is_refused_before_any_message():
    class TripEnded(Event, type="trip.ended", version=3, oldest=3, registry=Registry()):
        trip_id: str

    with pytest.raises(HandlerError, match="registry"):
        Decoder([TripEnded], registry=REGISTRY)


def test_no_headers_are_parsed_for_our_own_bodies():
    def unread():
        raise AssertionError

    assert decoder.decode(SUBJECT, unread, BODY)[1] == EVENT


def test_the_subjects_of_all_classes_are_known():
    decoder = Decoder([TripEnded, Kept1, Kept2], registry=REGISTRY)
    assert list(decoder.subjects) == ["evt.trip.ended", "evt.kept.apart"]


def test_another_senders_envelope_is_read():
    event = {
        "id": "17",
        "source": "https://calls.example/v1?x=1",
        "type": "call.completed",
        "specversion": "1.0",
        "datacontenttype": "Application/JSON; charset=utf-8",
        "time": "2024-05-06T07:08:09.123456789+02:00",
        "tenant": None,
        "comexampleother": "x",
        "sampledrate": 3,
        "data": json.loads(EVENT.model_dump_json()),
    }
    envelope, message = decoder.decode(SUBJECT, {}, json.dumps(event, indent=2).encode())
    assert message == EVENT
    assert envelope.time == datetime(2024, 5, 6, 5, 8, 9, 123456, tzinfo=UTC)
    assert envelope.extensions == {"comexampleother": "x", "sampledrate": 3}
    assert (envelope.version, envelope.tenant, envelope.subject) == (1, None, "c-1")


def test_an_envelope_without_a_time_has_none():
    without = json.loads(BODY)
    del without["time"]
    assert decoder.decode(SUBJECT, {}, json.dumps(without).encode())[0].time is None


def test_schemas_of_other_hosts_tell_their_version():
    for uri in ("https://schemas.example/call.completed/1", "/1", "1"):
        assert decoder.decode(SUBJECT, {}, body(dataschema=uri))[0].version == 1


def test_data_may_be_base64():
    attributes = json.loads(BODY)
    attributes["data_base64"] = base64.b64encode(json.dumps(attributes.pop("data")).encode())
    attributes["data_base64"] = attributes["data_base64"].decode()
    assert decoder.decode(SUBJECT, {}, json.dumps(attributes).encode())[1] == EVENT


def test_names_of_our_own_fields_are_no_attributes():
    envelope, _ = decoder.decode(SUBJECT, {}, body(correlation_id="x", _data={}, extensions="y"))
    assert envelope.correlation_id == "m-1"
    assert envelope.extensions == {"correlation_id": "x", "_data": {}, "extensions": "y"}


@pytest.mark.parametrize("change", [str.upper, str.title, str.lower])
def test_headers_of_binary_mode_are_read_in_any_case(change):
    data, headers = Codec(source="/calls", mode="binary").encode(EVENT, id="m-1")
    changed = {change(name): value for name, value in headers.items()}
    envelope, message = decoder.decode(SUBJECT, lambda: changed, data)
    assert (envelope.id, message) == ("m-1", EVENT)


def test_binary_headers_of_http_and_kafka_are_read():
    data, headers = Codec(source="/calls", mode="binary").encode(EVENT, id="m-1")
    del headers["ce-datacontenttype"]  # type: ignore[attr-defined]
    headers = {**headers, "Content-Type": "application/json", "Nats-Msg-Id": "m-1", "ce-x": "a b"}
    headers["ce-tenant"] = '"quoted \\"tenant\\" %C3%BC"'
    envelope, _ = decoder.decode(SUBJECT, headers, data)
    assert envelope.tenant == 'quoted "tenant" ü'
    assert envelope.extensions == {"x": "a b"}


def test_old_versions_in_binary_mode_are_upcast():
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "m-1",
        "ce-source": "/trips",
        "ce-type": "trip.ended",
        "ce-dataschema": "urn:common:trip.ended/2",
    }
    data = b'{"trip_id":"t-1","distance":2}'
    _, message = Decoder([TripEnded], registry=REGISTRY).decode("evt.trip.ended", headers, data)
    assert message == TripEnded(trip_id="t-1", distance=2000)


@pytest.mark.parametrize("way", ["one pass", "long way"])
def test_a_key_the_sender_left_out_is_that_of_the_message(way):
    data, headers = Codec(source="/calls").encode(EVENT, id="m-1")
    attributes = json.loads(data)
    del attributes["subject"]
    if way == "long way":
        attributes["foreign"] = "x"
    envelope, message = decoder.decode(SUBJECT, headers, json.dumps(attributes).encode())
    assert message == EVENT
    assert envelope.subject == EVENT.call_id
