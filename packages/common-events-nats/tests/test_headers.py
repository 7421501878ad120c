import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events.nats._headers import VERSION, encode_headers, parse_headers, parse_status


def test_what_is_encoded_is_parsed():
    headers = {"ce-type": "call.completed", "Ünsafe".replace("Ü", "U"): "größe: 3", "empty": ""}
    raw = VERSION + b"\r\n" + encode_headers(headers) + b"\r\n"
    assert parse_headers(raw) == headers


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=5))
def test_no_header_can_add_another_line(headers: dict[str, str]):
    try:
        encoded = encode_headers(headers)
    except ValueError:
        return
    assert encoded.count(b"\r\n") == encoded.count(b"\n") == encoded.count(b"\r")
    assert encoded.count(b"\r\n") == sum(not name.lower().startswith("nats-") for name in headers)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ü"])
def test_a_name_that_cannot_be_sent_is_refused(name: str):
    with pytest.raises(ValueError, match="no name for a header"):
        encode_headers({name: "x"})


def test_orders_to_the_server_are_not_sent_on():
    assert encode_headers({"Nats-Msg-Id": "1", "nats-rollup": "all", "NATS-TTL": "1s"}) == b""


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (None, (0, "")),
        (b"", (0, "")),
        (b"NATS/1.0\r\n\r\n", (0, "")),
        (b"NATS/1.0 503\r\n\r\n", (503, "")),
        (b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n", (100, "Idle Heartbeat")),
        (b"NATS/1.0 abc\r\n\r\n", (0, "")),
        (b"NATS/1.0 ", (0, "")),
    ],
)
def test_a_status_is_read(raw: bytes | None, status: tuple[int, str]):
    assert parse_status(raw) == status


@given(st.binary(max_size=60))
def test_parsing_never_raises(raw: bytes):
    parse_headers(raw)
    parse_status(raw)
    parse_status(b"NATS/1.0 " + raw)
