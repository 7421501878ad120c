"""Targets cannot leave the base URL, whatever is put into them."""

import uuid
from datetime import UTC, datetime
from enum import Enum, StrEnum

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.clients._paths import fill, query
from common.errors import ValidationError


@pytest.mark.parametrize(
    ("template", "values", "path"),
    [
        ("/", {}, "/"),
        ("/calls", {}, "/calls"),
        ("/calls/{id}", {"id": 7}, "/calls/7"),
        ("/calls/{id}", {"id": "a/b?c#d%e f"}, "/calls/a%2Fb%3Fc%23d%25e%20f"),
        ("/calls/{id}", {"id": "ü"}, "/calls/%C3%BC"),
        ("/v1/{a}:{b}.json", {"a": "x", "b": "..."}, "/v1/x:....json"),
        ("/a%20b", {}, "/a%20b"),
        ("/on/{flag}", {"flag": True}, "/on/true"),
        (
            "/{id}",
            {"id": uuid.UUID(int=1)},
            "/00000000-0000-0000-0000-000000000001",
        ),
    ],
)
def test_fields_are_filled_in_as_one_segment(template, values, path):
    assert fill(template, values) == path


@pytest.mark.parametrize(
    "template",
    [
        "",
        "calls",
        "https://evil.example/",
        "//evil.example/a",
        "/\\evil.example",
        "/a/../b",
        "/a/%2e%2E/b",
        "/a/.%2e",
        "/..",
        "/a//b",
        "/a%2f..%2fb",
        "/a%5cb",
        "/a?b=c",
        "/a#b",
        "/a b",
        "/a\r\nX: y",
        "/a%0d%0aX",
        "/a%00",
        "/ä",
        "/{id",
        "/{}",
        "/{0}",
        "/%zz",
    ],
)
def test_a_template_that_is_no_plain_path_is_refused(template):
    with pytest.raises(ValueError):
        fill(template, {"id": 1})


@pytest.mark.parametrize("values", [{}, {"id": 1, "more": 2}, {"ID": 1}, {"id": None}])
def test_fields_and_values_must_match(values):
    with pytest.raises(ValueError, match="id"):
        fill("/{id}", values)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../admin",
        "a/../../b",
        "..\\..\\b",
        "a/..",
        "a\r\nb",
        "a\0",
        "\x7f",
        "\ud800",
    ],
)
def test_a_value_that_could_climb_or_end_the_line_is_refused_and_not_shown(value):
    with pytest.raises(ValidationError) as raised:
        fill("/calls/{id}", {"id": value})
    assert raised.value.field == "id"
    assert len(value) < 3 or value not in str(raised.value.to_dict())


def test_literal_and_value_together_make_no_dot_segment():
    with pytest.raises(ValidationError):
        fill("/{a}{b}", {"a": ".", "b": "x"})
    with pytest.raises(ValidationError):
        fill("/a/.{b}", {"b": "."})


@settings(deadline=None)
@given(st.text())
def test_no_value_leaves_its_place(value):
    try:
        path = fill("/calls/{id}/notes", {"id": value})
    except ValidationError:
        return
    url = httpx.URL("https://billing/api").copy_with(raw_path=b"/api" + path.encode("ascii"))
    assert (url.host, url.query) == ("billing", b"")
    assert httpx.URL(str(url)).raw_path == url.raw_path  # no normalising changes it
    assert url.raw_path.count(b"/") == 4


def test_a_query_is_encoded_and_lists_repeat_their_name():
    assert query({"a": "x&y=z", "b": [1, 2, None], "c": None, "d": False, "e f": "\r\n"}) == (
        "?a=x%26y%3Dz&b=1&b=2&d=false&e+f=%0D%0A"
    )
    assert query({}) == query(None) == query({"a": []}) == ""


class Color(Enum):
    RED = "r/d"


class Word(StrEnum):
    YES = "y"


def test_dates_and_enums_are_sent_as_other_services_expect_them():
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    values = {"at": noon, "day": noon.date(), "color": Color.RED, "word": Word.YES, "n": 1.5}
    assert query(values) == (
        "?at=2026-01-02T12%3A00%3A00%2B00%3A00&day=2026-01-02&color=r%2Fd&word=y&n=1.5"
    )
    assert fill("/{color}/{day}", {"color": Color.RED, "day": noon.date()}) == "/r%2Fd/2026-01-02"


@pytest.mark.parametrize(
    "value",
    [b"canary", {"canary": 1}, {1, 2}, object(), iter([1]), [[1]]],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_one_text_is_refused_and_not_shown(value):
    for call in (lambda: query({"q": value}), lambda: fill("/{q}", {"q": value})):
        with pytest.raises(TypeError, match="q is ") as raised:
            call()
        assert "canary" not in str(raised.value)


def test_text_that_is_no_unicode_is_refused_and_not_kept():
    for call in (lambda: query({"q": "canary\ud800"}), lambda: fill("/{q}", {"q": "canary\ud800"})):
        with pytest.raises(ValidationError) as raised:
            call()
        assert (raised.value.__cause__, raised.value.__context__) == (None, None)
