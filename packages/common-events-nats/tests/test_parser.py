import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from common.events.nats._connection import Connection
from common.events.nats._headers import command
from common.events.nats._parser import MessageParser

Got = tuple[int, bytes, bytes, bytes, bytes | None]


class Client:
    """Takes note of what nats-py's parser says to its client."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def _process_ping(self) -> None:
        self.said.append("ping")

    async def _process_pong(self) -> None:
        self.said.append("pong")

    async def _process_info(self, info: dict[str, object]) -> None:
        self.said.append(f"info {info['n']}")

    async def _process_err(self, text: str) -> None:
        self.said.append(text)


def message(got: Got) -> bytes:
    sid, subject, reply, data, headers = got
    answer = reply + b" " if reply else b""
    if headers is None:
        return b"MSG %b %d %b%d\r\n%b\r\n" % (subject, sid, answer, len(data), data)
    size = len(headers)
    return b"HMSG %b %d %b%d %d\r\n%b%b\r\n" % (
        *(subject, sid, answer, size, size + len(data), headers, data),
    )


words = st.text("abc.*>$_", min_size=1, max_size=8).map(str.encode)
messages = st.tuples(
    st.integers(1, 10**6),
    words,
    words | st.just(b""),
    st.binary(max_size=40) | st.just(b"MSG a 1 3\r\nabc\r\n") | st.just(b"\r\n"),
    st.none() | st.just(b"NATS/1.0\r\nA: b\r\n\r\n") | st.just(b"NATS/1.0 503\r\n\r\n"),
)
lines = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"n": 7}\r\n', b"-ERR 'x'\r\n"]
)
meanings = {b"PING": "ping", b"PONG": "pong", b"INFO": "info 7", b"-ERR": "'x'"}


@given(st.lists(messages | lines, max_size=12), st.lists(st.integers(0, 400)))
def test_however_it_is_cut_the_same_comes_out(sent: list[Got | bytes], cuts: list[int]):
    raw = b"".join(each if isinstance(each, bytes) else message(each) for each in sent)
    client, got = Client(), []
    parser = MessageParser(client, lambda *parts: got.append(parts))

    async def feed() -> None:
        for start, stop in pairwise([0, *sorted(cuts), len(raw)]):
            if start < stop:
                await parser.parse(raw[start:stop])

    asyncio.run(feed())
    assert got == [each for each in sent if isinstance(each, tuple)]
    said = [meanings.get(each[:4]) for each in sent if isinstance(each, bytes)]
    assert client.said == [each for each in said if each is not None]


@pytest.mark.parametrize(
    "hostile",
    [
        *(b"MSG \r\n", b"MSG a 1 x\r\n", b"MSG a x 0\r\n\r\n", b"MSG a 1 2 3 4 0\r\n\r\n"),
        *(b"HMSG a 1 5\r\nabcde\r\n", b"HMSG a 1 9 5\r\nabcde\r\n", b"MSG a 1 -5\r\n", b"BAD\r\n"),
        b"INFO " + b"x" * (2 << 20),
    ],
)
async def test_what_is_no_protocol_is_refused(hostile: bytes):
    parser = MessageParser(Client(), lambda *_: None)
    with pytest.raises(ProtocolError):
        await parser.parse(hostile)


async def test_nothing_of_a_lost_connection_is_left():
    got: list[Got] = []
    parser = MessageParser(Client(), lambda *parts: got.append(parts))
    await parser.parse(b"MSG a 1 5\r\nab")
    parser.reset()
    await parser.parse(b"MSG b 2 1\r\nx\r\n")
    assert got == [(2, b"b", b"", b"x", None)]


async def test_what_follows_an_error_that_ends_the_connection_is_not_taken():
    got: list[Got] = []

    class Ending(Client):
        async def _process_err(self, text: str) -> None:
            parser.reset()

    parser = MessageParser(Ending(), lambda *parts: got.append(parts))
    await parser.parse(b"-ERR 'gone'\r\nMSG a 1 1\r\nx\r\nMSG b")
    await parser.parse(b"MSG c 3 1\r\nx\r\n")
    assert [sid for sid, *_ in got] == [3]


async def test_a_large_message_in_small_pieces_is_not_copied_for_each():
    got: list[Got] = []
    parser = MessageParser(Client(), lambda *parts: got.append(parts))
    body = bytes(8 << 20)
    raw = b"MSG a 1 %d\r\n%b\r\n" % (len(body), body)
    for start in range(0, len(raw), 1_000):
        await parser.parse(raw[start : start + 1_000])
    assert [len(each[3]) for each in got] == [len(body)]


async def test_subscriptions_of_nats_py_itself_work_beside(config):
    connection = Connection(config)
    await connection.open()
    subscription = await connection.nc.subscribe("own.*")
    await connection.nc.publish("own.a", b"1", headers={"A": "b"})
    connection.publish("own.b", b"2", reply="r")
    first, second = await subscription.next_msg(5), await subscription.next_msg(5)
    assert (first.data, first.headers) == (b"1", {"A": "b"})
    assert (second.data, second.reply, second.headers) == (b"2", "r", None)
    await connection.close()


def test_a_command_is_as_the_protocol_wants_it():
    assert command(b"a", b"", b"", b"xy") == b"PUB a  2\r\nxy\r\n"
    headers = b"NATS/1.0\r\nA: b\r\n\r\n"
    wanted = b"HPUB a r %d %d\r\n%bxy\r\n" % (len(headers), len(headers) + 2, headers)
    assert command(b"a", b"r", headers, b"xy") == wanted
