"""The rules of W3C Trace Context, level 2, and the cases of its public test suite."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.context import (
    Trace,
    extract,
    format_tracestate,
    new_trace,
    parse_trace,
    parse_tracestate,
)

TRACE = "12345678901234567890123456789012"
SPAN = "1234567890123456"
GOOD = f"00-{TRACE}-{SPAN}-01"
ALL_KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
ALL_VALUE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) not in ",=")


def continued(*headers):
    """What the suite's harness sees: headers in, the trace out, or None when restarted."""
    trace = extract(headers).trace
    return trace if trace is not None and trace.trace_id == TRACE else None


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-ff",
        # a future version, with and without more fields
        f"cc-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 10_000,
        # optional whitespace
        f" {GOOD}",
        f"\t{GOOD}",
        f"{GOOD} ",
        f"{GOOD}\t",
        f"\t {GOOD} \t",
    ],
)
def test_a_valid_traceparent_continues_the_trace(header):
    trace = continued(("traceparent", header))
    assert trace is not None
    assert trace.span_id == SPAN
    assert trace.traceparent.startswith(f"00-{TRACE}-{SPAN}-")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        # version 00 has exactly four fields
        f"{GOOD}.",
        f"{GOOD}-",
        f"{GOOD}-what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-0",
        # version
        f"ff-{TRACE}-{SPAN}-01",
        f".0-{TRACE}-{SPAN}-01",
        f"0.-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"0000-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"CC-{TRACE}-{SPAN}-01",
        f"FF-{TRACE}-{SPAN}-01",
        # trace-id
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-.{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}3-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{'ABCDEF' + TRACE[6:]}-{SPAN}-01",
        # parent-id
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-.{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN[:-1]}.-01",
        f"00-{TRACE}-{SPAN}7-01",
        f"00-{TRACE}-{SPAN[:-1]}-01",
        f"00-{TRACE}-{'ABCDEF' + SPAN[6:]}-01",
        # trace-flags
        f"00-{TRACE}-{SPAN}-.0",
        f"00-{TRACE}-{SPAN}-0.",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0A",
        f"00-{TRACE}-{SPAN}-",
        # separators, other characters
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"{GOOD},{GOOD}",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f'"{GOOD}"',
    ],
)
def test_an_invalid_traceparent_restarts_the_trace_without_its_state(header):
    trace = extract([("traceparent", header), ("tracestate", "foo=1")]).trace
    assert trace is not None
    assert trace.trace_id not in header
    assert trace.trace_id[:-1] not in header
    assert trace.tracestate == ()
    assert parse_trace(header, "foo=1") is None


@pytest.mark.parametrize("name", ["traceparent", "TraceParent", "TrAcEpArEnT", "TRACEPARENT"])
def test_the_header_name_is_read_in_any_case(name):
    assert continued((name, GOOD))
    assert continued((name.encode(), GOOD.encode()))


@pytest.mark.parametrize("name", ["trace-parent", "trace.parent", "traceparent ", "xtraceparent"])
def test_other_header_names_are_not_read(name):
    assert not continued((name, GOOD))


def test_several_traceparent_headers_are_as_bad_as_none():
    other = f"00-{TRACE[:-1]}1-{SPAN}-01"
    trace = extract([("traceparent", GOOD), ("traceparent", other), ("tracestate", "a=1")]).trace
    assert trace is not None
    assert trace.trace_id not in (TRACE, TRACE[:-1] + "1")
    assert trace.tracestate == ()
    assert not continued(("traceparent", GOOD), ("Traceparent", GOOD))


def test_a_tracestate_without_a_traceparent_is_discarded():
    trace = extract([("tracestate", "foo=1,bar=2")]).trace
    assert trace is not None
    assert trace.tracestate == ()


@pytest.mark.parametrize(
    ("flags", "sampled", "random", "sent"),
    [
        ("00", False, False, "00"),
        ("01", True, False, "01"),
        ("02", False, True, "02"),
        ("03", True, True, "03"),
        # reserved flags are not sent on
        ("04", False, False, "00"),
        ("09", True, False, "01"),
        ("ff", True, True, "03"),
    ],
)
def test_flags(flags, sampled, random, sent):
    trace = parse_trace(f"00-{TRACE}-{SPAN}-{flags}")
    assert trace is not None
    assert (trace.sampled, trace.random) == (sampled, random)
    assert trace.traceparent[-2:] == sent
    assert trace.child().traceparent[-2:] == sent


def test_a_child_keeps_trace_flags_and_state_and_has_another_span():
    trace = parse_trace(GOOD, "foo=1")
    assert trace is not None
    child = trace.child()
    assert (child.trace_id, child.flags, child.tracestate) == (TRACE, 1, (("foo", "1"),))
    assert child.span_id not in (SPAN, trace.child().span_id)
    assert trace.child("00000000000000ab").span_id == "00000000000000ab"
    assert not trace.child(sampled=False).sampled
    assert trace.child(sampled=False).child(sampled=True).sampled


def test_a_new_trace_is_random_and_leaves_sampling_to_others():
    first, second = new_trace(), new_trace(sampled=True)
    assert (first.random, first.sampled, second.sampled) == (True, False, True)
    assert first.trace_id != second.trace_id
    assert parse_trace(first.traceparent) == first


@pytest.mark.parametrize(
    "arguments",
    [
        ("", SPAN),
        (TRACE.replace("1", "A"), SPAN),
        ("0" * 32, SPAN),
        (TRACE, "0" * 16),
        (TRACE, SPAN + "\n"),
        (TRACE, SPAN, 0, (("foo", "1\r\nEvil: 1"),)),
    ],
)
def test_a_malformed_trace_cannot_be_made(arguments):
    with pytest.raises(ValueError, match=r"hexadecimal|malformed"):
        Trace(*arguments)


def test_a_trace_is_immutable_comparable_and_copyable():
    trace = Trace(TRACE, SPAN, 1, (("a", "1"),))
    with pytest.raises(AttributeError, match="immutable"):
        trace.flags = 0
    with pytest.raises(AttributeError, match="immutable"):
        del trace.flags
    with pytest.raises(AttributeError):
        trace.other = 0
    for same in (copy.copy(trace), copy.deepcopy(trace), pickle.loads(pickle.dumps(trace))):
        assert same == trace
        assert hash(same) == hash(trace)
    assert trace != trace.child()
    assert trace != TRACE


# tracestate


def state(*headers):
    trace = continued(("traceparent", GOOD), *(("tracestate", each) for each in headers))
    assert trace is not None, "a bad tracestate must not harm traceparent"
    return trace.tracestate_header


def members(start, stop):
    return ",".join(f"bar{n:02}={n:02}" for n in range(start, stop + 1))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ""),
        ([""], ""),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["foo=1,"], "foo=1"),
        (["foo=1, ,\t,bar=2"], "foo=1,bar=2"),
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        # whitespace around members; leading spaces belong to the value
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1\t \t,\t \tbar=2,\t \tbaz=3"], "foo=1,bar=2,baz=3"),
        ([" foo=1"], "foo=1"),
        (["\tfoo=1"], "foo=1"),
        (["foo=1 "], "foo=1"),
        (["foo=1\t"], "foo=1"),
        (["\t foo=1 \t"], "foo=1"),
        (["foo=  1"], "foo=  1"),
        # one entry per key: the first is the most recent
        (["foo=1,foo=1"], "foo=1"),
        (["foo=1,bar=2,foo=2"], "foo=1,bar=2"),
        (["foo=1", "foo=2"], "foo=1"),
        # all characters
        ([f"{ALL_KEY}={ALL_VALUE}"], f"{ALL_KEY}={ALL_VALUE}"),
        ([f"{ALL_KEY}@a-z0-9_-*/={ALL_VALUE}"], f"{ALL_KEY}@a-z0-9_-*/={ALL_VALUE}"),
        # level 2 lets keys begin with a digit and hold @ anywhere but in front
        (["1a=1"], "1a=1"),
        (["foo@=1,bar=2"], "foo@=1,bar=2"),
        (["foo@@bar=1,bar=2"], "foo@@bar=1,bar=2"),
        (["foo@bar@baz=1,bar=2"], "foo@bar@baz=1,bar=2"),
        ([f"t@{'v' * 15}=1"], f"t@{'v' * 15}=1"),
        # lengths
        (["foo=1", "z" * 256 + "=1"], "foo=1," + "z" * 256 + "=1"),
        (
            ["foo=1", "t" * 241 + "@" + "v" * 14 + "=1"],
            "foo=1," + "t" * 241 + "@" + "v" * 14 + "=1",
        ),
        (["a=" + "v" * 256], "a=" + "v" * 256),
        ([members(1, 10), members(11, 20), members(21, 30), members(31, 32)], members(1, 32)),
        ([members(1, 32) + "," * 50], members(1, 32)),
    ],
)
def test_a_valid_tracestate_is_passed_on_in_order(headers, expected):
    assert state(*headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        ["foo"],
        ["foo =1"],
        ["FOO=1"],
        ["foo.bar=1"],
        ["@foo=1,bar=2"],
        ["-foo=1"],
        ["=1"],
        ["foo=bar=baz"],
        ["foo=,bar=3"],
        ["foo= ,bar=3"],
        ["foo=a\tb"],
        ["foo=ä"],
        ["foo=1\n"],
        ["foo=\x7f"],
        ["foo=1", "z" * 257 + "=1"],
        ["foo=1", "a=" + "v" * 257],
        [members(1, 30), members(31, 33)],
        ["foo=1" + "," * 40_000],
    ],
)
def test_an_invalid_tracestate_is_discarded_whole(headers):
    assert state(*headers) == ""


@pytest.mark.parametrize("name", ["TraceState", "TrAcEsTaTe", "TRACESTATE"])
def test_the_tracestate_name_is_read_in_any_case(name):
    trace = continued(("traceparent", GOOD), (name, "foo=1"))
    assert trace is not None
    assert trace.tracestate == (("foo", "1"),)


@pytest.mark.parametrize("name", ["trace-state", "trace.state"])
def test_other_tracestate_names_are_not_read(name):
    trace = continued(("traceparent", GOOD), (name, "foo=1"))
    assert trace is not None
    assert trace.tracestate == ()


def test_512_characters_are_kept():
    exact = [("a", "1" * 98)] * 5 + [("b", "2" * 5)]
    header = ",".join(f"{key}={value}" for key, value in exact)
    assert len(header) == 512
    assert format_tracestate(exact) == header


def test_beyond_512_characters_long_members_go_first_and_then_the_last_ones():
    long, short = "x" * 130, "y" * 100
    given = [("a", short), ("b", long), ("c", short), ("d", long), ("e", short)]
    # 102 + 132 + 102 + 132 + 102 and four commas: one long member has to go, the last
    assert [m[0] for m in parse_tracestate(format_tracestate(given))] == ["a", "b", "c", "e"]
    given += [("f", short), ("g", short), ("h", short)]
    # Without both long ones still six members of 102: the last two go
    assert [m[0] for m in parse_tracestate(format_tracestate(given))] == ["a", "c", "e", "f"]
    assert format_tracestate([("a", "1" * 126), ("b", "2" * 10)], limit=130) == "a=" + "1" * 126
    assert format_tracestate([("a", "1" * 127), ("b", "2" * 10)], limit=130) == "b=" + "2" * 10
    assert format_tracestate([("a", "1")], limit=2) == ""


def test_an_own_entry_moves_to_the_left_and_the_rightmost_gives_way():
    trace = parse_trace(GOOD, members(1, 32))
    assert trace is not None
    changed = trace.with_state("dd", "s:1").with_state("bar05", "new")
    keys = [key for key, _ in changed.tracestate]
    assert len(keys) == 32
    assert keys[:3] == ["bar05", "dd", "bar01"]
    assert dict(changed.tracestate)["bar05"] == "new"
    assert keys[-1] == "bar31"
    assert trace.tracestate_header == members(1, 32)


@pytest.mark.parametrize(("key", "value"), [("A", "1"), ("a", ""), ("a", "1,b=2"), ("", "1")])
def test_an_own_entry_has_to_keep_the_rules(key, value):
    with pytest.raises(ValueError, match="tracestate cannot hold"):
        new_trace().with_state(key, value)


# Properties

KEYS = st.from_regex(r"[a-z0-9][a-z0-9_\-*/@]{0,20}", fullmatch=True)
VALUES = st.from_regex(r"[ -+\--<>-~]{0,20}[!-+\--<>-~]", fullmatch=True)
STATES = st.lists(st.tuples(KEYS, VALUES), max_size=10, unique_by=lambda m: m[0]).map(tuple)
TRACES = st.builds(
    Trace,
    st.integers(1, 2**128 - 1).map(lambda n: f"{n:032x}"),
    st.integers(1, 2**64 - 1).map(lambda n: f"{n:016x}"),
    st.integers(0, 255),
    STATES,
)


@given(TRACES)
def test_what_is_formatted_can_be_parsed(trace):
    assert parse_trace(trace.traceparent, trace.tracestate_header) == trace


@given(st.lists(st.tuples(KEYS, VALUES), max_size=60))
def test_formatting_keeps_the_limit_and_the_order(given_members):
    header = format_tracestate(given_members)
    assert len(header) <= 512
    whole = ",".join(f"{k}={v}" for k, v in given_members)
    if len(whole) <= 512:
        assert header == whole
    remaining = iter(given_members)
    assert all(m in remaining for m in (tuple(x.split("=")) for x in header.split(",") if x))


@given(st.text() | st.text("0123456789abcdef-", min_size=53, max_size=57), st.text())
def test_no_text_makes_parsing_raise(parent, tracestate):
    trace = parse_trace(parent, tracestate)
    if trace is not None:
        assert parse_trace(trace.traceparent, trace.tracestate_header) == trace


@given(st.text(st.sampled_from("ab=, \t@1A"), max_size=60))
def test_a_parsed_state_is_stable(header):
    parsed = parse_tracestate(header)
    assert parse_tracestate(format_tracestate(parsed)) == parsed
