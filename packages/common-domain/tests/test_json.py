# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from common.domain import Event, JsonData, JsonObject, Registry
from common.domain._json import MAX_DEPTH, MAX_NODES


class Carrier(Event, type="json.carried", registry=Registry()):
    data: JsonObject = Field(default_factory=dict)
    value: JsonData = None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_of_any_shape_survives_a_round_trip(value):
    carrier = Carrier(data={"x": value}, value=value)
    assert Carrier.model_validate_json(carrier.model_dump_json()) == carrier
    assert carrier.value == value


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_is_bounded():
    Carrier(value=nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(ValidationError, match="nested deeper"):
            Carrier(value=nested(levels))


def test_a_value_inside_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValidationError):
        Carrier(value=loop)


def test_size_is_bounded():
    Carrier(value=[0] * (MAX_NODES - 1))
    with pytest.raises(ValidationError, match="more than 10000 values"):
        Carrier(value=[0] * MAX_NODES)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        2**63,
        -(2**63),
        "\ud800",
        {"\ud800": 1},
        {1: 2},
        object(),
        b"x",
        (1,),
        {1},
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:4]!a}",
)
def test_what_json_cannot_carry_is_refused_without_being_quoted(value):
    for each in (value, [value], {"deep": value}):
        with pytest.raises(ValidationError, match="must"):
            Carrier(value=each)


def test_nan_in_json_text_is_refused():
    with pytest.raises(ValidationError, match="NaN"):
        Carrier.model_validate_json('{"value": [NaN]}')


@pytest.mark.parametrize("value", [[], "x", 1, None, [["a", 1]]])
def test_an_object_is_required_where_one_is_meant(value):
    with pytest.raises(ValidationError):
        Carrier(data=value)
    with pytest.raises(ValidationError):
        Carrier.model_validate_json(json.dumps({"data": value}))


def test_a_message_owns_its_content():
    mine = {"inner": {"n": 1}}
    carrier = Carrier(data=mine)
    mine["inner"]["n"] = 2
    assert carrier.data == {"inner": {"n": 1}}
