"""Decoding answers without ever showing them."""

import traceback
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from common.clients import Headers, Response
from common.errors import UpstreamServiceError


class Item(BaseModel):
    id: int
    tags: dict[str, int] = {}


@dataclass
class Plain:
    id: int


def response(content):
    return Response(200, Headers([]), content, service="billing", endpoint="/items/{id}")


def test_json_and_text():
    assert response(b'{"a": [1, null]}').json() == {"a": [1, None]}
    assert response("ü".encode()).text == "ü"
    assert response(b"\xff").text == "\ufffd"


def test_anything_pydantic_knows_can_be_decoded():
    assert response(b'{"id": "7"}').decode(Item) == Item(id=7)
    assert response(b'[{"id": 1}]').decode(list[Item]) == [Item(id=1)]
    assert response(b'{"id": 1}').decode(Plain) == Plain(1)
    assert response(b"3").decode(int) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>canary",
        b'{"id": "canary"}',
        b'{"id": 1, "tags": {"canary": "x"}}',
        b"\xffcanary",
        b"[" * 200_000,
    ],
    ids=range(6),
)
def test_what_does_not_fit_is_an_upstream_error_that_shows_none_of_it(content):
    with pytest.raises(UpstreamServiceError) as raised:
        response(content).decode(Item)
    error = raised.value
    assert (error.code, error.retryable, error.upstream_status) == (
        "UPSTREAM_SERVICE_ERROR",
        False,
        200,
    )
    assert "billing" in str(error)
    shown = "".join(traceback.format_exception(error)) + repr(error.to_dict())
    assert "canary" not in shown
    assert (error.__cause__, error.__context__) == (None, None)


def test_the_fields_that_do_not_fit_are_named():
    with pytest.raises(
        UpstreamServiceError, match=r"Item: id \(int_parsing\), tags \(int_parsing\)"
    ):
        response(b'{"id": "x", "tags": {"a": "b", "c": "d"}}').decode(Item)
    with pytest.raises(UpstreamServiceError, match=r"list\[.*Item\]: … \(missing\)"):
        response(b"[{}]").decode(list[Item])


@pytest.mark.parametrize(
    "content",
    [b"", b"nope", b"NaN", b"[Infinity]", b"[" * 200_000, b"1" * 5000, b"\xff"],
    ids=range(7),
)
def test_what_is_no_json_is_an_upstream_error_without_the_body(content):
    with pytest.raises(UpstreamServiceError) as raised:
        response(content).json()
    assert raised.value.__context__ is None
    assert str(raised.value) in (
        "billing: its answer is no JSON",
        "billing: its answer is nested too deeply",
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_not_decoded_either(number):
    with pytest.raises(UpstreamServiceError, match="is no JSON"):
        response(f"[{number}]".encode()).decode(list[float])
    assert response(f'["{number}"]'.encode()).decode(list[str]) == [number]


def test_a_million_wrong_items_are_counted_and_not_listed():
    with pytest.raises(UpstreamServiceError, match=r"is no list\[.*\]: 5000 errors"):
        response(b"[" + b"1," * 4999 + b"1]").decode(list[Item])


def test_repr_shows_no_content():
    assert repr(response(b"canary")) == "Response(200, 6 bytes from billing)"
