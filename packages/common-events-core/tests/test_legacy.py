"""Envelopes of the replaced systems are read as if they were CloudEvents."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain import Event, Registry, upcast
from common.domain.calls import CallCompleted, CallStatus
from common.events.core._decoder import Decoder
from common.events.core._errors import UndecodableMessage

REGISTRY = Registry()


class Lit(Event, type="lamp.lit", version=2, registry=REGISTRY):
    lamp: str

    @upcast(1)
    @staticmethod
    def _renamed(data):
        return {"lamp": data["name"]}


EVENT = CallCompleted(
    call_id="c-1", phone_number="+4930901820", duration_seconds=7, status=CallStatus.COMPLETED
)
DATA = json.loads(EVENT.model_dump_json())
SUBJECT = "evt.call.completed"
BUS = {
    "event_id": "e-1",
    "subject": SUBJECT,
    "correlation_id": "r-1",
    "idempotency_key": "k-1",
    "timestamp": "2024-05-06T07:08:09.5",
    "metadata": {"service": "calls", "attempt": 1},
    "payload": DATA,
}
GRID = {
    "id": "g-1",
    "topic": "/subscriptions/x/topics/calls",
    "subject": "calls/c-1",
    "eventType": "call.completed",
    "eventTime": "2024-05-06T07:08:09.5Z",
    "data": DATA,
    "dataVersion": "1.0",
    "metadataVersion": "1",
}
decoder = Decoder([CallCompleted])


def decode(envelope, **changes):
    body = {name: each for name, each in {**envelope, **changes}.items() if each is not ...}
    return decoder.decode(SUBJECT, {}, json.dumps(body).encode())


def test_the_replaced_bus_is_read():
    envelope, message = decode(BUS)
    assert message == EVENT
    assert (envelope.id, envelope.correlation_id, envelope.subject) == ("k-1", "r-1", "c-1")
    assert (envelope.type, envelope.version, envelope.source) == ("call.completed", 1, "/legacy")
    assert envelope.time == datetime(2024, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC)
    assert envelope.extensions == {"metadata": {"service": "calls", "attempt": 1}}


@pytest.mark.parametrize("absent", [None, "", ...])
def test_what_the_replaced_bus_left_out_is_no_fault(absent):
    envelope, message = decode(BUS, idempotency_key=absent, correlation_id=absent, metadata=absent)
    assert (envelope.id, envelope.correlation_id, envelope.extensions) == ("e-1", None, {})
    assert message == EVENT


@pytest.mark.parametrize(
    "timestamp",
    ["2024-05-06T09:08:09.5+02:00", "2024-05-06 07:08:09.500000", 1714979289.5, 1714979289500],
)
def test_the_replaced_bus_wrote_time_in_many_ways(timestamp):
    assert decode(BUS, timestamp=timestamp)[0].time == datetime(
        2024, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC
    )


def test_event_grid_is_read():
    envelope, message = decode(GRID)
    assert message == EVENT
    assert (envelope.id, envelope.subject, envelope.version) == ("g-1", "calls/c-1", 1)
    assert envelope.source == "/subscriptions/x/topics/calls"
    assert envelope.time == datetime(2024, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("version", ["", None, ...])
def test_event_grid_without_a_version_is_version_1(version):
    assert decode(GRID, dataVersion=version, topic=...)[1] == EVENT


@pytest.mark.parametrize(
    ("envelope", "changes", "reason"),
    [
        (BUS, {"subject": "evt.call.started"}, "malformed"),
        (BUS, {"subject": ["x"]}, "malformed"),
        (BUS, {"event_id": ..., "idempotency_key": "k"}, "malformed"),
        (BUS, {"event_id": {}, "idempotency_key": None}, "malformed"),
        (BUS, {"event_id": "a\nb", "idempotency_key": None}, "malformed"),
        (BUS, {"timestamp": "yesterday"}, "malformed"),
        (BUS, {"timestamp": None}, "malformed"),
        (BUS, {"timestamp": 1e300}, "malformed"),
        (BUS, {"timestamp": "0001-01-01T00:00:00+14:00"}, "malformed"),
        (BUS, {"correlation_id": 7}, "malformed"),
        (BUS, {"payload": None}, "invalid_data"),
        (BUS, {"payload": json.dumps(DATA)}, "invalid_data"),
        (BUS, {"payload": {}}, "invalid_data"),
        (GRID, {"eventType": "call.started"}, "malformed"),
        (GRID, {"eventType": 1}, "malformed"),
        (GRID, {"eventTime": "yesterday"}, "malformed"),
        (GRID, {"subject": "x" * 2000}, "malformed"),
        (GRID, {"dataVersion": "9"}, "unknown_version"),
        (GRID, {"dataVersion": "new"}, "unknown_version"),
        (GRID, {"dataVersion": ["1"]}, "unknown_version"),
        (GRID, {"data": []}, "invalid_data"),
    ],
)
def test_faults_have_their_reason(envelope, changes, reason):
    with pytest.raises(UndecodableMessage) as caught:
        decode(envelope, **changes)
    assert caught.value.reason == reason


def test_the_data_of_both_is_version_1_and_upcast():
    decoder = Decoder([Lit], registry=REGISTRY)
    bus = {**BUS, "subject": "evt.lamp.lit", "payload": {"name": "hall"}}
    grid = {**GRID, "eventType": "evt.lamp.lit", "data": {"name": "hall"}, "dataVersion": "1"}
    for envelope in (bus, grid):
        found, message = decoder.decode("evt.lamp.lit", {}, json.dumps(envelope).encode())
        assert (found.version, message) == (1, Lit(lamp="hall"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("envelope", [BUS, GRID], ids=["bus", "grid"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_members_of_any_kind_are_read_or_refused(envelope, data):
    names = st.sampled_from(sorted(envelope))
    changes = data.draw(st.dictionaries(names, json_values, min_size=1, max_size=4))
    try:
        found, _ = decode(envelope, **changes)
    except UndecodableMessage:
        return
    assert 1 <= len(found.id) <= 256
    assert found.time is not None
