# Misuse on purpose, and values known to be there:
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import contextlib
from collections.abc import MutableMapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.context import BaggageValue, Context, Trace, bind, deadline, extract, inject, valid_id
from common.context._context import current

TRACE = Trace("12345678901234567890123456789012", "1234567890123456", 3, (("foo", "1"),))
FULL = Context(
    request_id="r-1",
    correlation_id="c-1",
    trace=TRACE,
    tenant="acme",
    user="ada",
    service="orders",
    deadline=1.0,
    baggage={"plan": "gold plus"},
)
WRITTEN = {
    "X-Request-ID": "r-1",
    "X-Correlation-ID": "c-1",
    "X-Service-Name": "orders",
    "X-Trace-ID": "12345678901234567890123456789012",
    "traceparent": "00-12345678901234567890123456789012-1234567890123456-03",
    "tracestate": "foo=1",
    "baggage": "plan=gold%20plus",
}


class CaseInsensitive(MutableMapping[str, str]):
    """Like the headers of web frameworks: lowercase keys, deletion in any case."""

    def __init__(self):
        self.data = {}

    def __getitem__(self, key):
        return self.data[key.lower()]

    def __setitem__(self, key, value):
        self.data[key.lower()] = value

    def __delitem__(self, key):
        del self.data[key.lower()]

    def __iter__(self):
        return iter(self.data)

    def __len__(self):
        return len(self.data)


def test_everything_meant_for_others_is_written_and_nothing_else():
    with bind(FULL):
        assert inject({}) == WRITTEN
    assert inject({}, context=FULL) == WRITTEN
    assert inject({"other": "1"}, context=Context()) == {"other": "1"}


def test_headers_are_changed_in_place_and_returned():
    headers = {"a": "1"}
    assert inject(headers, context=FULL) is headers
    pairs = [("a", "1")]
    assert inject(pairs, context=FULL) is pairs


def test_older_values_go_whatever_their_case():
    old = {"x-request-id": "old", "X-REQUEST-ID": "older", "TraceParent": "old", "accept": "*/*"}
    assert inject(dict(old), context=FULL) == {"accept": "*/*", **WRITTEN}
    pairs = inject([*old.items(), ("Accept", "a"), ("Accept", "b")], context=FULL)
    assert pairs == [("accept", "*/*"), ("Accept", "a"), ("Accept", "b"), *WRITTEN.items()]
    headers = CaseInsensitive()
    headers["X-Request-Id"] = "old"
    inject(headers, context=FULL)
    assert dict(headers) == {name.lower(): value for name, value in WRITTEN.items()}


def test_a_stale_tracestate_does_not_survive_a_new_traceparent():
    context = Context(trace=Trace(TRACE.trace_id, TRACE.span_id))
    headers = inject({"tracestate": "old=1", "baggage": "kept=1"}, context=context)
    assert "tracestate" not in headers
    assert headers["baggage"] == "kept=1"


def test_lists_keep_their_kind_of_pairs():
    asgi = inject([(b"host", b"h")], context=FULL)
    assert asgi[1] == (b"x-request-id", b"r-1")
    assert all(type(part) is bytes for pair in asgi for part in pair)
    kafka = inject([("host", b"h")], context=FULL)
    assert kafka[1] == ("X-Request-ID", b"r-1")
    assert inject([], context=FULL)[0] == ("X-Request-ID", "r-1")
    assert inject([], context=FULL, raw=True)[0] == (b"x-request-id", b"r-1")


def test_what_would_break_the_header_is_not_written():
    evil = "a\r\nSet-Cookie: b"
    with bind(request_id=evil, correlation_id="x" * 129, service=evil, tenant=evil, user=evil):
        assert inject({}) == {}


@given(st.text() | st.text(st.sampled_from("a=;,\r\n\0\t é")), st.data())
def test_nothing_in_the_context_can_bring_control_characters_into_headers(text, data):
    baggage = {"a": text}
    with contextlib.suppress(ValueError):
        baggage["b"] = BaggageValue("1", text)
    value = BaggageValue("1", "ttl=5")
    value.properties = text
    baggage["c"] = value
    trace = TRACE
    with contextlib.suppress(ValueError):
        trace = TRACE.with_state("a", text)
    fields = ("request_id", "correlation_id", "service", "tenant", "user")
    chosen = data.draw(st.sets(st.sampled_from(fields)))
    with bind(FULL, baggage=baggage, trace=trace, **dict.fromkeys(chosen, text)):
        for name, sent in inject({}).items():
            assert name in WRITTEN
            assert all(" " <= character <= "~" or character == "\t" for character in sent)


def test_headers_of_starlette_are_written_to():
    headers = pytest.importorskip("starlette.datastructures").MutableHeaders(
        raw=[(b"x-request-id", b"old"), (b"accept", b"a"), (b"x-request-id", b"older")]
    )
    assert inject(headers, context=FULL) is headers
    sent = {name.lower().encode(): value.encode() for name, value in WRITTEN.items()}
    assert headers.raw == [(b"accept", b"a"), *sent.items()]


def test_neither_the_callers_name_nor_a_lone_trace_id_is_believed():
    context = extract({"X-Service-Name": "billing", "X-Trace-ID": TRACE.trace_id})
    assert context.service is None
    assert context.trace.trace_id != TRACE.trace_id


@pytest.mark.parametrize(
    "headers",
    [
        WRITTEN,
        list(WRITTEN.items()),
        [(name.lower().encode(), value.encode()) for name, value in WRITTEN.items()],
        [(name.upper(), value.encode()) for name, value in WRITTEN.items()],
        {name.swapcase(): [value] for name, value in WRITTEN.items()},
        {name.encode(): (value,) for name, value in WRITTEN.items()},
        iter(WRITTEN.items()),
    ],
)
def test_what_was_written_is_read_again_from_every_kind_of_headers(headers):
    context = extract(headers)
    expected = FULL.replace(tenant=None, user=None, service=None, deadline=None)
    assert context == expected


def test_missing_ids_and_traces_are_made():
    first, second = extract({}), extract({})
    assert valid_id(first.request_id)
    assert first.correlation_id == first.request_id
    assert first.request_id != second.request_id
    assert first.trace is not None
    assert second.trace is not None
    assert first.trace.trace_id != second.trace.trace_id
    assert dict(first.baggage) == {}


@pytest.mark.parametrize(
    "bad", ["", " ", "a b", "a\n", "x" * 129, "x" * 100_000, "\x1b[31m", "ä", "a,b", "<script>"]
)
def test_bad_ids_are_replaced(bad):
    context = extract({"X-Request-ID": bad, "X-Correlation-ID": bad})
    assert valid_id(context.request_id)
    assert context.request_id != bad
    assert context.correlation_id == context.request_id


def test_ids_in_several_headers_are_replaced_and_whitespace_around_is_not_part_of_them():
    context = extract([("X-Request-ID", "a"), ("x-request-id", "b"), ("X-Correlation-ID", "\tc ")])
    assert context.request_id not in ("a", "b")
    assert context.correlation_id == "c"


def test_a_new_request_starts_afresh_and_takes_its_own_deadline():
    with bind(tenant="old", deadline=0.0), bind(extract({}), service="orders"), deadline(60):
        assert current().tenant is None
        assert current().service == "orders"
        assert current().deadline > 1


NAMES = st.sampled_from([*WRITTEN, *(name.upper() for name in WRITTEN)])
ANYTHING = st.none() | st.integers() | st.text() | st.binary() | st.lists(st.text() | st.binary())


@given(
    st.lists(
        st.tuples(NAMES | st.binary() | NAMES.map(str.encode) | st.none(), ANYTHING), max_size=10
    )
)
def test_no_headers_make_reading_raise_and_what_results_can_be_sent(headers):
    context = extract(headers)
    assert valid_id(context.request_id)
    assert valid_id(context.correlation_id)
    sent = inject({}, context=context)
    assert extract(sent) == context
    for value in sent.values():
        assert value.isascii()
        assert value.isprintable()


@given(st.dictionaries(st.text(), ANYTHING))
def test_no_mapping_makes_reading_raise(headers):
    assert extract(headers).trace is not None
