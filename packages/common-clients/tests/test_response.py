"""Decoding answers without ever showing them."""

import traceback
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from common.clients import Headers, Response
from common.clients._response import check_model
from common.errors import UpstreamServiceError


class Item(BaseModel):
    id: int
    tags: dict[str, int] = {}


@dataclass
class Plain:
    id: int


def response(content, kind=None):
    headers = Headers([("Content-Type", kind)] if kind else [])
    return Response(200, headers, content, service="billing", call="GET /items/{id}")


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
        "billing, GET /items/{id}: its answer is no JSON",
        "billing, GET /items/{id}: its answer is nested too deeply",
    )


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/html; charset=utf-8", "; it is text/html"),
        ("Text/HTML", "; it is text/html"),
        ("application/json; charset=utf-8", ""),
        ("application/problem+json", ""),
        (None, ""),
        ("canary\x1b[31m", "; it is of an unreadable type"),
        ("a/" + "b" * 65, "; it is of an unreadable type"),
    ],
)
def test_an_answer_of_another_type_than_json_says_which(kind, shown):
    answer = response(b"<html>canary", kind)
    with pytest.raises(UpstreamServiceError) as raised:
        answer.decode(Item)
    assert str(raised.value) == (
        f"billing, GET /items/{{id}}: its answer is no Item: … (json_invalid){shown}"
    )
    with pytest.raises(UpstreamServiceError) as raised:
        answer.json()
    assert str(raised.value) == f"billing, GET /items/{{id}}: its answer is no JSON{shown}"


class Unfinished(BaseModel):
    other: "Missing"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@pytest.mark.parametrize(
    "model",
    ["Item", {}, 5, Item(id=1), Unfinished, list["Item"], Headers],
    ids=["text", "mapping", "number", "object", "unfinished", "forward", "no-model"],
)
def test_what_nothing_can_be_decoded_into_is_a_mistake_that_names_the_argument(model):
    with pytest.raises(TypeError, match=r"into= is .*: give a model"):
        check_model(model)
    with pytest.raises(TypeError, match=r"into= is .*: give a model"):
        response(b"{}").decode(model)


def test_a_union_can_be_decoded_and_its_type_said():
    item: Item | None = response(b"null").decode(Item | None)
    assert item is None
    assert response(b'{"id": 7}').decode(Item | None) == Item(id=7)


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
