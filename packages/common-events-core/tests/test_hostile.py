"""Whatever bytes come, the answer is a message or UndecodableMessage, which quotes nothing."""

import json
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.calls import CallCompleted, CallStatus
from common.events.core._codec import Codec
from common.events.core._decoder import Decoder
from common.events.core._envelope import MAX_BODY, MAX_EXTENSIONS
from common.events.core._errors import UndecodableMessage

SUBJECT = "evt.call.completed"
CANARY = "canary7f3a"
EVENT = CallCompleted(
    call_id="c-1", phone_number="+4930901820", duration_seconds=7, status=CallStatus.COMPLETED
)
BODY, _ = Codec(source="/calls").encode(EVENT, id="m-1")
BINARY_BODY, BINARY_HEADERS = Codec(source="/calls", mode="binary").encode(EVENT, id="m-1")
decoder = Decoder([CallCompleted])


def changed(**attributes):
    """The body with other attributes; None takes one away."""
    parsed = {**json.loads(BODY), **attributes}
    return json.dumps({name: value for name, value in parsed.items() if value is not ...}).encode()


def data(**fields):
    return changed(data={**json.loads(BODY)["data"], **fields})


def refused(body, headers=None, subject=SUBJECT):
    with pytest.raises(UndecodableMessage) as caught:
        decoder.decode(subject, headers or {}, body)
    return caught.value


def shown(error):
    """All that a log or an error tracker could show of an error, contexts included."""
    texts, seen = [], set()
    each = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        texts += [repr(each), str(each), str(getattr(each, "details", ""))]
        texts += traceback.format_exception_only(each)
        if hasattr(each, "errors"):
            texts.append(str(each.errors()))
        each = each.__cause__ or each.__context__
    return "\n".join(texts)


HOSTILE = {
    "empty": b"",
    "no json": b"hello " + CANARY.encode(),
    "truncated": BODY[:-1],
    "cut in the middle": BODY[: len(BODY) // 2],
    "trailing": BODY + b"x",
    "two documents": BODY + BODY,
    "an array": b"[" + BODY + b"]",
    "a string": json.dumps(BODY.decode()).encode(),
    "null": b"null",
    "a number": b"1",
    "nan": BODY.replace(b'"id":', b'"x":NaN,"id":'),
    "nul byte": BODY.replace(b'"m-1"', b'"m\x001"'),
    "byte order mark": b"\xef\xbb\xbf" + BODY,
    "utf-16": BODY.decode().encode("utf-16"),
    "not utf-8": BODY.replace(b'"m-1"', b'"m\xff1"'),
    "lone surrogate": BODY.replace(b'"m-1"', b'"\\ud800"'),
    "lone surrogate in data": BODY.replace(b'"c-1"', b'"\\udfff"'),
    "deep": b'{"specversion":' * 100_000,
    "deep arrays": BODY.replace(b'"id":', b'"x":' + b"[" * 5_000 + b"]" * 5_000 + b',"id":'),
    "huge integer": BODY.replace(b'"id":', b'"x":' + b"9" * 10_000 + b',"id":'),
    "too large": BODY + b" " * (MAX_BODY + 1 - len(BODY)),
    "no envelope": BINARY_BODY,
    "empty object": b"{}",
    "no id": changed(id=...),
    "null id": changed(id=None),
    "empty id": changed(id=""),
    "long id": changed(id="x" * 257),
    "id with a line break": changed(id=f"{CANARY}\r\nNats-Msg-Id: y"),
    "id with nul": changed(id="m\0"),
    "number as id": changed(id=1),
    "other spec": changed(specversion="0.3"),
    "number as spec": changed(specversion=1.0),
    "no source": changed(source=...),
    "long source": changed(source="/" * 1025),
    "another type": changed(type="call.started"),
    "no type": changed(type=...),
    "time without offset": changed(time="2024-01-01T00:00:00"),
    "time in words": changed(time=CANARY),
    "time as number": changed(time=1_700_000_000),
    "time as digits": changed(time="1700000000"),
    "no such day": changed(time="2024-02-30T00:00:00Z"),
    "time before year 1": changed(time="0001-01-01T00:00:00+14:00"),
    "time after year 9999": changed(time="9999-12-31T23:59:59-14:00"),
    "xml": changed(datacontenttype="application/xml"),
    "jsonp": changed(datacontenttype="application/jsonp"),
    "content type as object": changed(datacontenttype={"a": CANARY}),
    "many extensions": changed(**{f"x{n}": CANARY for n in range(MAX_EXTENSIONS + 1)}),
    "long name": changed(**{CANARY * 10: 1}),
    "empty name": changed(**{"": 1}),
    "name with a blank": changed(**{f"{CANARY} x": 1}),
    "long correlation id": changed(correlationid="x" * 257),
    "correlation id as list": changed(correlationid=[CANARY]),
    "tenant with a line break": changed(tenant="a\nb"),
    "bad base64": changed(data=..., data_base64=f"{CANARY}!"),
    "data and base64": changed(data_base64="e30="),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_envelope_is_malformed(name):
    error = refused(HOSTILE[name])
    assert error.reason == "malformed"
    assert CANARY not in shown(error)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (changed(data=...), "invalid_data"),
        (changed(data=None), "invalid_data"),
        (changed(data=[CANARY]), "invalid_data"),
        (changed(data=json.dumps({"call_id": CANARY})), "invalid_data"),
        (changed(data={}), "invalid_data"),
        (data(phone_number=CANARY), "invalid_data"),
        (data(duration_seconds=CANARY), "invalid_data"),
        (data(duration_seconds=-1), "invalid_data"),
        (data(status=CANARY), "invalid_data"),
        (data(status="failed"), "invalid_data"),
        (changed(data=..., data_base64="e30="), "invalid_data"),
        (changed(data=..., data_base64="eA=="), "invalid_data"),
        (BODY.replace(b":7,", b":" + b"9" * 400 + b"e999,"), "invalid_data"),
        (changed(dataschema="urn:common:call.completed/2"), "unknown_version"),
        (changed(dataschema="urn:common:call.completed/0"), "unknown_version"),
        (changed(dataschema="urn:common:call.completed/-1"), "unknown_version"),
        (changed(dataschema="urn:common:call.completed/" + "9" * 500), "unknown_version"),
        (changed(dataschema="urn:common:call.completed/" + "9" * 2000), "malformed"),
        (changed(dataschema="urn:common:call.completed/²"), "unknown_version"),
        (changed(dataschema=f"https://{CANARY}"), "unknown_version"),
    ],
)
def test_each_fault_has_its_reason(body, reason):
    error = refused(body)
    assert error.reason == reason
    assert CANARY not in shown(error)


def test_a_subject_of_no_class_is_an_unknown_type():
    assert refused(BODY, subject="evt.call.started").reason == "unknown_type"
    assert refused(BODY, subject="cmd.call.completed").reason == "unknown_type"
    assert refused(b"\xff", subject=f"evt.{CANARY}.x").reason == "unknown_type"
    assert CANARY not in shown(refused(b"\xff", subject=f"evt.{CANARY}.x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce-id", "%ff" + CANARY),
        ("ce-id", "%C0%A0"),
        ("ce-id", ""),
        ("ce-id", "a%0Ab"),
        ("ce-id", CANARY * 26),
        ("ce-time", CANARY),
        ("ce-type", "call.started"),
        ("ce-specversion", "2.0"),
        ("ce-datacontenttype", "text/plain"),
        ("ce-x y", "1"),
        ("ce-subject", "\udc80"),
    ],
)
def test_bad_headers_of_binary_mode_are_malformed(name, value):
    error = refused(BINARY_BODY, {**BINARY_HEADERS, name: value})
    assert error.reason == "malformed"
    assert CANARY not in shown(error)


def test_binary_mode_refuses_data_that_does_not_fit():
    error = refused(BINARY_BODY.replace(b"completed", CANARY.encode()), BINARY_HEADERS)
    assert error.reason == "invalid_data"
    assert CANARY not in shown(error)
    assert refused(b"", BINARY_HEADERS).reason == "invalid_data"
    assert refused(BODY[:40], BINARY_HEADERS).reason == "invalid_data"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        CANARY,
        7,
        None,
        ["a"],
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"ff-{'a' * 32}-{'b' * 16}-01",
    ],
)
def test_no_message_is_lost_to_a_bad_traceparent(traceparent):
    body = changed(traceparent=traceparent, tracestate="a=b")
    envelope, message = decoder.decode(SUBJECT, {}, body)
    assert message == EVENT
    assert envelope.trace is None


def test_a_bad_tracestate_leaves_the_traceparent():
    envelope, _ = decoder.decode(SUBJECT, {}, changed(tracestate="a" * 600))
    assert envelope.trace is not None
    assert envelope.trace.tracestate == ()


def test_of_a_repeated_name_the_last_counts_on_either_way():
    twice = BODY.replace(b'"id":', b'"id":"first","id":')
    assert decoder.decode(SUBJECT, {}, twice)[0].id == "m-1"
    assert decoder.decode(SUBJECT, {}, b" " + twice)[0].id == "m-1"
    body = BODY.replace(b'"data":', b'"data":{"call_id":"other"},"data":')
    assert decoder.decode(SUBJECT, {}, body)[1] == decoder.decode(SUBJECT, {}, b" " + body)[1]
    assert refused(BODY.replace(b'"id":', b'"id":"good","id":"","id":"\\n","x":')).reason == (
        "malformed"
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(noise):
    for body in (noise, b'{"specversion"' + noise):
        assert refused(body).reason == "malformed"


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(BODY) - 1), noise=st.binary(max_size=8), cut=st.integers(0, 20))
def test_a_damaged_body_is_read_or_refused(position, noise, cut):
    damaged = BODY[:position] + noise + BODY[position + cut :]
    try:
        _, message = decoder.decode(SUBJECT, {}, damaged)
    except UndecodableMessage:
        return
    assert isinstance(message, CallCompleted)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
names = st.sampled_from([*json.loads(BODY), "tracestate", "causationid", "tenant", "data_base64"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names | st.text(max_size=5), json_values, max_size=5))
def test_attributes_of_any_kind_are_read_or_refused(attributes):
    body = json.dumps({**json.loads(BODY), **attributes}).encode()
    try:
        envelope, _ = decoder.decode(SUBJECT, {}, body)
    except UndecodableMessage:
        return
    assert envelope.type == "call.completed"
    assert 1 <= len(envelope.id) <= 256
