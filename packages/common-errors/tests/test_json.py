# Misuse on purpose, and JSON values without narrowing:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportFunctionMemberAccess=false, reportIndexIssue=false, reportMissingTypeArgument=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportUnusedClass=false

import collections
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import types
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import AppError, json_safe
from common.errors._json import MAX_DEPTH, MAX_ITEMS, MAX_NODES, MAX_TEXT


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()

    def __str__(self):
        raise RuntimeError

    def __len__(self):
        raise RuntimeError


UUID = uuid.UUID("0190163d-8694-739b-aea5-966c26f8ad91")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (-(2**63) + 1, -(2**63) + 1),
        (2**63, str(2**63)),
        (1.5, 1.5),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        ("text", "text"),
        ("", ""),
        ("\ud800", "?"),
        ("Zoë 😀", "Zoë 😀"),
        (b"user:1\xff", "user:1\\xff"),
        (bytearray(b"ab"), "ab"),
        (memoryview(b"ab"), "ab"),
        (UUID, str(UUID)),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("sNaN"), "sNaN"),
        (fractions.Fraction(1, 3), "1/3"),
        (dt.datetime(2026, 11, 1, tzinfo=dt.UTC), "2026-11-01T00:00:00+00:00"),
        (dt.date(2026, 11, 1), "2026-11-01"),
        (dt.time(1, 2), "01:02:00"),
        (dt.timedelta(seconds=90), 90.0),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (ipaddress.ip_address("::1"), "::1"),
        (Colour.RED, "red"),
        (Colour.PAIR, [1, 2]),
        (Level.HIGH, 3),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({2, 1}), [1, 2]),
        ({None, 1, "a"}, [None, 1, "a"]),
        ((1, [2]), [1, [2]]),
        (collections.deque([1]), [1]),
        ({1: 2, None: 3, UUID: 4}, {"1": 2, "None": 3, str(UUID): 4}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (object(), "<object>"),
        (ValueError("secret"), "<ValueError>"),
        (Colour, "<EnumType>"),
        ((x for x in "ab"), "<generator>"),
    ],
)
def test_each_kind_of_value_has_its_form(value, expected):
    assert json_safe(value) == expected
    assert type(json_safe(value)) is type(expected)
    assert json.loads(json.dumps(json_safe(value), allow_nan=False)) == expected


def test_integers_too_long_to_print_and_strings_with_methods_of_their_own():
    assert json_safe(10**5000) == "<int of 16610 bits>"
    assert json_safe([Name("text")]) == ["text"]
    assert type(json_safe(Name("text"))) is str


def test_foreign_methods_that_raise_do_no_harm():
    class Broken(dict):
        def items(self):
            raise RuntimeError

    class BrokenDate(dt.date):
        def isoformat(self):
            raise RuntimeError

    class BrokenKey:
        __hash__ = object.__hash__

        def __repr__(self):
            raise RuntimeError

    assert json_safe([Broken(a=1), BrokenDate(2026, 1, 1)]) == ["<Broken>", "<BrokenDate>"]
    assert json_safe({BrokenKey(): 1}) == {"<BrokenKey>": 1}


def test_a_repr_is_never_shown():
    class Credentials:
        def __repr__(self):
            return "password=hunter2"

    assert "hunter2" not in json.dumps(json_safe({"a": [Credentials()], "b": {Credentials(): 1}}))


def test_cycles_are_marked_and_shared_values_are_not():
    cycle: list[object] = [1]
    cycle.append(cycle)
    loop: dict[str, object] = {}
    loop["self"] = loop
    shared = [1]
    assert json_safe(cycle) == [1, "<cycle>"]
    assert json_safe(loop) == {"self": "<cycle>"}
    assert json_safe([shared, shared]) == [[1], [1]]


def test_depth_items_text_and_total_size_are_bounded():
    deep: object = 1
    for _ in range(10_000):
        deep = [deep]
    assert json.dumps(json_safe(deep)) == "[" * MAX_DEPTH + '"\\u2026"' + "]" * MAX_DEPTH
    many = json_safe(list(range(MAX_ITEMS + 1)))
    assert many == [*range(MAX_ITEMS), "…"]
    assert json_safe(list(range(MAX_ITEMS))) == list(range(MAX_ITEMS))
    assert json_safe(dict.fromkeys(range(1000), 1))["…"] == "…"
    assert json_safe("a" * (MAX_TEXT + 1)) == "a" * (MAX_TEXT - 1) + "…"
    assert json_safe("a" * MAX_TEXT) == "a" * MAX_TEXT
    assert len(json_safe({"k" * 5000: 1}).popitem()[0]) == MAX_TEXT
    assert len(json_safe(b"\xff" * 10**6)) == MAX_TEXT
    wide = [[[1] * MAX_ITEMS] * MAX_ITEMS] * MAX_ITEMS
    assert json.dumps(json_safe(wide)).count("1") <= MAX_NODES


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.uuids()
    | st.datetimes()
    | st.decimals()
    | st.builds(object),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.none() | st.integers() | st.text() | st.uuids(), inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=30,
)


@given(VALUES)
def test_details_always_survive_strict_json_and_utf8(value):
    body = AppError("x", details={"value": value}).to_dict()
    text = json.dumps(body, allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode()) == body


@given(VALUES)
def test_converting_twice_changes_nothing(value):
    once = json_safe(value)
    assert json_safe(once) == once
