"""What goes into a body, and what a body says that it does not take."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from pydantic import BaseModel

from common.clients._json import dumped
from common.errors import ValidationError


class Item(BaseModel):
    price: float
    day: date = date(2024, 2, 29)


def test_models_may_stand_anywhere():
    plain = b'{"price":1.0,"day":"2024-02-29"}'
    assert dumped(Item(price=1)) == plain
    assert dumped({"a": [Item(price=1), None, "ü"]}) == b'{"a":[%b,null,"\xc3\xbc"]}' % plain


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            {"a": [datetime(2024, 2, 29, tzinfo=UTC)]},
            "json['a'][0] is datetime: give its isoformat",
        ),
        ({"a": {1: {"canary"}}}, "json['a'][1] is set: give a list"),
        ([1, (Decimal(7),)], "json[1][0] is Decimal: give text, a number"),
        (uuid4(), "json is UUID: give text"),
        ({"a": [Item(price=1), b"canary"]}, "json['a'][1] is bytes: give text"),
        ({"a": [{(1, 2): "canary"}]}, "json['a'][0] has a key that is tuple: give text"),
    ],
    ids=range(6),
)
def test_what_it_does_not_take_is_named_with_its_place_and_not_shown(value, told):
    with pytest.raises(TypeError) as raised:
        dumped(value)
    assert told in str(raised.value)
    assert "canary" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_named_with_their_place(number):
    for value, place in (({"a": [0.5, number]}, "json['a'][1]"), (number, "json")):
        with pytest.raises(ValueError) as raised:
            dumped(value)
        assert str(raised.value).startswith(f"{place} is {number!r}, which JSON has not")
    with pytest.raises(ValueError) as raised:
        dumped([Item(price=number)])
    assert str(raised.value).startswith("json[0]['price'] is")


def test_a_place_is_not_shown_at_any_length():
    with pytest.raises(TypeError) as raised:
        dumped({"a" * 10_000: {"b": object()}})
    assert len(str(raised.value)) < 400


def test_a_loop_ends():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        dumped(loop)


def test_text_that_is_none_is_not_shown():
    with pytest.raises(ValidationError) as raised:
        dumped(["canary\ud800"])
    assert "canary" not in str(raised.value)
