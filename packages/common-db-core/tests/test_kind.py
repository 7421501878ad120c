# ruff: noqa: DTZ001 - naive datetimes are part of the bad input
import enum
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.db.core import FieldInfo, Kind
from common.db.core._kind import decode, encode, normalise, plain_column
from common.errors import ValidationError

VALUES = {
    Kind.BOOL: st.booleans(),
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    Kind.DECIMAL: st.decimals(
        min_value=-(10**30), max_value=10**30, places=8, allow_nan=False, allow_infinity=False
    ),
    Kind.TEXT: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    Kind.BYTES: st.binary(),
    Kind.UUID: st.uuids(),
    Kind.DATETIME: st.datetimes(
        min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC)
    ),
    Kind.DATE: st.dates(),
}


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda k: st.tuples(st.just(k), VALUES[k])))
def test_every_value_survives_its_spelling(case):
    kind, value = case
    assert normalise(kind, value, 1 << 20) == value
    text = encode(kind, value)
    assert text is not None
    assert decode(kind, text, 1 << 20) == value
    assert encode(kind, decode(kind, text, 1 << 20)) == text


@given(
    st.sampled_from(sorted(VALUES)).flatmap(lambda k: st.tuples(st.just(k), st.lists(VALUES[k])))
)
def test_the_fast_way_through_a_column_changes_nothing(case):
    kind, column = case
    field = FieldInfo("f", kind)
    assert field.check_all(list(column)) == [field.check(value) for value in column]


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (Kind.TEXT, ["a", "b\0"]),
        (Kind.TEXT, ["a", "\ud800"]),
        (Kind.TEXT, ["a", 1]),
        (Kind.TEXT, ["a", "ä" * 600]),
        (Kind.TEXT, ["a", "x" * 1_025]),
        (Kind.BYTES, [b"x" * 1_025]),
        (Kind.INT, [1, True]),
        (Kind.INT, [1, 2**63]),
        (Kind.INT, [1, -(2**63) - 1]),
        (Kind.FLOAT, [1.0, float("nan")]),
        (Kind.FLOAT, [float("inf")]),
        (Kind.DATETIME, [datetime.now(UTC), datetime(2026, 1, 1)]),
        (Kind.DATE, [date(2026, 1, 1), datetime.now(UTC)]),
        (Kind.BOOL, [True, 1]),
        (Kind.UUID, [UUID(int=1), "x"]),
    ],
)
def test_one_bad_value_in_a_column_is_found(kind, column):
    assert not plain_column(kind, column, 1_024)
    with pytest.raises(ValidationError) as caught:
        FieldInfo("f", kind).check_all(column, max_bytes=1_024)
    assert caught.value.field == "f"


def test_equal_values_are_spelled_alike():
    cet = timezone(timedelta(hours=1))
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    local = normalise(Kind.DATETIME, noon.astimezone(cet), 1)
    assert encode(Kind.DATETIME, local) == encode(Kind.DATETIME, noon)
    spelled = {encode(Kind.DECIMAL, Decimal(text)) for text in ("1", "1.0", "1.00", "100E-2")}
    assert spelled == {"1"}
    long = Decimal("12345678901234567890123456789012345678.12345678901234567890123456789012345678")
    assert decode(Kind.DECIMAL, encode(Kind.DECIMAL, long), 1) == long
    for zero, plain in {"-0.0": "0.0", "0E+999999": "0", "0.00": "0.00"}.items():
        assert str(normalise(Kind.DECIMAL, Decimal(zero), 1)) == plain


def test_subclasses_cannot_talk_their_way_past_the_checks():
    class Text(str):
        __slots__ = ()

        def __contains__(self, _):
            return False

        def __len__(self):
            return 1

        def isascii(self):
            return True

    class Number(int):
        def __le__(self, _):
            return True

        __ge__ = __lt__ = __gt__ = __le__

    for kind, value in (
        (Kind.TEXT, Text("a\0")),
        (Kind.TEXT, Text("long")),
        (Kind.INT, Number(2**80)),
    ):
        with pytest.raises(ValueError, match="must"):
            normalise(kind, value, 3)


def test_subclasses_become_plain_values():
    class Colour(str, enum.Enum):  # noqa: UP042
        RED = "red"

    class Level(enum.IntEnum):
        LOW = 1

    class DriversUuid(UUID):
        pass

    for kind, value, plain in (
        (Kind.TEXT, Colour.RED, "red"),
        (Kind.INT, Level.LOW, 1),
        (Kind.UUID, DriversUuid(int=5), UUID(int=5)),
        (Kind.FLOAT, 3, 3.0),
        (Kind.DECIMAL, 3, Decimal(3)),
        (Kind.BYTES, bytearray(b"a"), b"a"),
    ):
        stored = normalise(kind, value, 100)
        assert stored == plain
        assert type(stored) is type(plain)


def test_a_datetime_that_leaves_the_calendar_in_utc_is_refused():
    east = timezone(timedelta(hours=14))
    with pytest.raises(ValueError, match="years 1 and 9999"):
        normalise(Kind.DATETIME, datetime(1, 1, 1, tzinfo=east), 1)


@pytest.mark.parametrize("kind", sorted(VALUES))
@pytest.mark.parametrize("text", ["", "x", "\0", "1e999999999", "é", "9" * 50])
def test_spellings_that_are_not_of_the_kind_are_value_errors(kind, text):
    try:
        decode(kind, text, 100)
    except ValueError:
        pass
    else:
        assert kind in (Kind.TEXT, Kind.FLOAT, Kind.BYTES)
