"""Headers that could end their line, or say where a message ends, are not sent."""

from uuid import uuid4

import pytest

from common.clients import Headers
from common.clients._headers import checked, checked_key
from common.errors import ValidationError


def test_sound_headers_are_sent_as_they_are():
    assert checked({"X-A": "b c\td", "Authorization": "Bearer x"}) == [
        ("X-A", "b c\td"),
        ("Authorization", "Bearer x"),
    ]
    assert checked(None) == []


@pytest.mark.parametrize(
    "value", ["a\r\nX: y", "a\nb", "a\0b", "ü", "\x7f", "a" * 9000, " canary", "canary\t"]
)
def test_a_value_that_cannot_be_sent_is_refused_and_not_shown(value):
    with pytest.raises(ValidationError) as raised:
        checked({"X-Token": value})
    assert raised.value.field == "X-Token"
    assert str(value)[:8] not in str(raised.value.to_dict())


@pytest.mark.parametrize("value", [1, None, b"canary", uuid4()], ids=range(4))
def test_a_value_that_is_no_text_is_a_mistake_of_the_code_that_names_its_place(value):
    with pytest.raises(TypeError, match=f"'X-Token': …}} is {type(value).__name__}: give text"):
        checked({"X-Token": value})
    with pytest.raises(TypeError, match=f"headers= has a name that is {type(value).__name__}"):
        checked({value: "x"})


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X\r\nA", "Ü", "a" * 101])
def test_a_name_that_cannot_be_sent_is_refused(name):
    with pytest.raises(ValidationError):
        checked({name: "x"})


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "CONNECTION"])
def test_what_frames_the_message_is_the_clients_business(name):
    with pytest.raises(ValueError, match="leave it out"):
        checked({name: "x"})


def test_a_header_given_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        checked({"Authorization": "a", "authorization": "b"})


@pytest.mark.parametrize("key", ["", "a b", "a\n", "ü", '"a"', "a" * 256])
def test_an_idempotency_key_is_visible_and_bounded(key):
    with pytest.raises(ValidationError):
        checked_key(key)
    assert checked_key("CREDIT:O_17") == "CREDIT:O_17"


def test_an_idempotency_key_may_be_a_uuid_and_nothing_else_that_is_no_text():
    key = uuid4()
    assert checked_key(key) == str(key)
    for other in (17, b"canary", ["canary"]):
        with pytest.raises(TypeError, match=r"idempotency_key= is .*: give text or a UUID"):
            checked_key(other)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_received_headers_are_a_mapping_that_shows_no_values():
    headers = Headers([("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("ETag", "x")])
    assert headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert dict(headers) == {"set-cookie": "a=1, b=2", "etag": "x"}
    assert (len(headers), headers.get("none"), headers.get_list("none")) == (2, None, [])
    assert "a=1" not in repr(headers)
