"""What no honest client sends, over real sockets: refused, bounded, and safe to log."""

import asyncio
import gzip
import io
import json
import logging
import zlib
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import calls_api.app
import pytest
from calls_api.logs import ContextFormatter

from common.api import Limits
from common.context import valid_id

CANARY = "canary-7f3a"  # stands in what is sent, and nowhere else
HOST = "calls.test"
GET, POST = "GET /calls", "POST /calls"
NEVER = UUID(int=0)
SLOW = object()


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name):
        (value,) = [value for key, value in self.headers if key == name]
        return value

    @property
    def code(self):
        return json.loads(self.body)["error"]["code"]


def request(line=GET, *headers, body=b"", host=HOST):
    sent = [f"{line} HTTP/1.1", *([f"Host: {host}"] if host else []), *headers]
    if body and not any(header.lower().startswith("content-length") for header in headers):
        sent.append(f"Content-Length: {len(body)}")
    if body and not any(header.lower().startswith("content-type") for header in headers):
        sent.append("Content-Type: application/json")
    return "\r\n".join([*sent, "Connection: close", "", ""]).encode("latin-1") + body


def post(body, *headers, line=POST):
    return request(line, *headers, body=body if isinstance(body, bytes) else body.encode())


def end(body):
    return post(body, line=f"POST /calls/{NEVER}/end")


def packed(body, coding="gzip", data=None):
    return post(data or gzip.compress(body), f"Content-Encoding: {coding}")


CALL = b'{"phone_number": "+4930123456"}'
ENDED = '{"status": "completed", "duration_seconds": %s}'
ID = "X-Request-ID: "
KEY = "Idempotency-Key: "

# Name, what is sent, the statuses that are right, and the code of the error where it is ours.
TABLE = [
    ("an id of 100 kB", request(GET, ID + "x" * 100_000), {400, 431}, None),
    ("an id of 20 kB", request(GET, ID + "x" * 20_000), {200}, None),
    ("an id with a control character", request(GET, ID + "a\x01b"), {200, 400}, None),
    ("an id with NUL", request(GET, ID + "a\x00b"), {400}, None),
    ("an id beyond ASCII", request(GET, ID + "ä\x80" + CANARY), {200}, None),
    ("an id over two lines", request(GET, ID + "a\r\n b"), {200, 400}, None),
    ("an id that would break a line", request(GET, ID + "a%0d%0aSet-Cookie: x"), {200}, None),
    ("two ids", request(GET, ID + "a", ID + "b"), {200}, None),
    ("a traceparent that is none", request(GET, "traceparent: 00-" + "0" * 5000), {200}, None),
    ("two keys", post(CALL, KEY + "a", KEY + "b"), {400}, "IDEMPOTENCY_KEY_INVALID"),
    ("a key of 300", post(CALL, KEY + "k" * 300), {400}, "IDEMPOTENCY_KEY_INVALID"),
    ("a key with a tab", post(CALL, KEY + "a\tb"), {400}, "IDEMPOTENCY_KEY_INVALID"),
    ("10,000 headers", request(GET, *["a: b"] * 10_000), {400, 431}, None),
    ("150 headers", request(GET, *["a: b"] * 150), {431}, "TOO_MANY_HEADERS"),
    ("40 kB of headers", request(GET, *["a: " + "b" * 4000] * 10), {431}, "HEADERS_TOO_LARGE"),
    ("40 kB of URL", request(f"GET /calls?cursor={'c' * 40_000}"), {414}, "URL_TOO_LONG"),
    ("two lengths", post(CALL, "Content-Length: 5", "Content-Length: 6"), {400}, None),
    ("a length that is none", post(CALL, "Content-Length: -1"), {400}, None),
    ("a huge length", post(CALL, "Content-Length: " + "9" * 18), {413}, "BODY_TOO_LARGE"),
    ("a large body", post(b" " * 20_000 + CALL), {413}, "BODY_TOO_LARGE"),
    (
        "a large body in chunks",
        request(POST, "Transfer-Encoding: chunked") + (b"2000\r\n" + b" " * 0x2000 + b"\r\n") * 8,
        {413},
        "BODY_TOO_LARGE",
    ),
    (
        "length and chunks",
        request(POST, "Transfer-Encoding: chunked", "Content-Length: 4") + b"0\r\n\r\n",
        {400, 422},
        None,
    ),
    ("a chunk without a size", request(POST, "Transfer-Encoding: chunked") + b"x\r\n", {400}, None),
    ("a body that does not come", post(CALL, "Content-Length: 100"), {408}, "BODY_TOO_SLOW"),
    ("a bomb of 9 MiB", packed(bytes(9 * 2**20)), {413}, None),
    ("a bomb of 1 GB", packed(b"", data=gzip.compress(bytes(10**6)) * 12), {400, 413}, None),
    (
        "a bomb in a bomb",
        packed(gzip.compress(CALL), "gzip, gzip"),
        {415},
        None,
    ),
    ("deflate that is none", packed(b"", "deflate", CALL), {400}, None),
    ("gzip that ends early", packed(b"", data=gzip.compress(CALL)[:-9]), {400}, None),
    ("a coding nobody knows", packed(b"", CANARY, CALL), {415}, None),
    ("deflate, as it should be", packed(b"", "deflate", zlib.compress(CALL)), {201}, None),
    ("an invented method", request("HACK /calls"), {405}, "METHOD_NOT_ALLOWED"),
    ("a long invented method", request("H" * 2000 + " /calls"), {405}, "METHOD_NOT_ALLOWED"),
    ("TRACE", request("TRACE /calls"), {405}, "METHOD_NOT_ALLOWED"),
    ("CONNECT", request("CONNECT calls:443"), {400, 404, 405}, None),
    ("a bad host", request(host=f"{CANARY}.example"), {400}, "HOST_INVALID"),
    ("a host with user and port", request(host=f"{HOST}:80@evil"), {400}, "HOST_INVALID"),
    ("a host within another", request(host=f"evil.{HOST}.evil"), {400}, "HOST_INVALID"),
    ("two hosts", request(GET, f"Host: {CANARY}"), {400}, None),
    ("no host", request(host=""), {400}, None),
    ("another site's URL", request(f"GET http://{CANARY}/calls"), {200, 400, 404}, None),
    ("a path out of here", request("GET /calls/../../etc/passwd"), {404, 422}, None),
    ("a path with NUL", request("GET /calls/%00"), {422}, "VALIDATION_ERROR"),
    ("a path with line breaks", request("GET /calls/%0d%0aX:%20y"), {422}, "VALIDATION_ERROR"),
    ("a path that is no UTF-8", request("GET /calls/%ff%fe"), {422}, "VALIDATION_ERROR"),
    ("NUL in a query", request("GET /calls?cursor=%00"), {422}, "DB_INVALID_CURSOR"),
    ("NUL in a name", request("GET /calls?%00=%00&status=%00"), {422}, "VALIDATION_ERROR"),
    ("a huge limit", request(f"GET /calls?limit={'9' * 5000}"), {422}, "VALIDATION_ERROR"),
    ("a status of its own", request(f"GET /calls?status={CANARY}"), {422}, "VALIDATION_ERROR"),
    ("NUL in a body", post('{"phone_number": "+49\x00"}'), {422}, "VALIDATION_ERROR"),
    ("NUL in a text", post(r'{"phone_number": "+4930\u0000"}'), {422}, "VALIDATION_ERROR"),
    ("half a character", post(r'{"phone_number": "+4930\ud800"}'), {422}, "VALIDATION_ERROR"),
    ("no UTF-8", post(b'{"phone_number": "\xff\xfe"}'), {400, 422}, None),
    ("a value in its error", post(f'{{"phone_number": "{CANARY}"}}'), {422}, "VALIDATION_ERROR"),
    ("a field in its error", post(f'{{"<{CANARY}>": 1}}'), {422}, "VALIDATION_ERROR"),
    ("a huge integer", end(ENDED % ("9" * 12_000)), {400, 422}, None),
    ("a long integer", end(ENDED % ("9" * 4000)), {422}, "VALIDATION_ERROR"),
    ("a huge float", end(ENDED % "1e999999"), {422}, "VALIDATION_ERROR"),
    ("no number", end(ENDED % "NaN"), {422}, "VALIDATION_ERROR"),
    ("a truth for a number", end(ENDED % "true"), {422}, "VALIDATION_ERROR"),
    ("deep arrays", post("[" * 15_000), {400, 422}, None),
    ("deep objects", post('{"a":' * 2000 + "1" + "}" * 2000), {400, 422}, None),
    ("5,000 fields", post(json.dumps(dict.fromkeys(map(str, range(1200))))), {422}, None),
    ("100 tags", request(f"GET /calls/{NEVER}", *['If-None-Match: "a"'] * 80), {404}, "NOT_FOUND"),
    ("a deadline that is none", request(GET, "X-Request-Timeout: -1e999"), {200, 400}, None),
    ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), {400}, None),
    ("no HTTP", f"{CANARY}\r\n\r\n".encode(), {400}, None),
]


async def send(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            received = b""
            with suppress(ConnectionError):  # refused before all of it was read
                writer.write(data)
                while part := await reader.read(2**16):
                    received += part
    finally:
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [
        (name.lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)
    ]
    if ("transfer-encoding", "chunked") in headers:
        body = body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
    return Answer(int(status.split()[1]), headers, body)


@pytest.fixture
def log(caplog):
    """The log of the service, as it writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ContextFormatter())
    caplog.set_level(logging.INFO)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


async def test_what_no_honest_client_sends_is_refused(settings, listen, log, subtests, monkeypatch):
    limits = Limits(max_body=calls_api.app.LIMITS.max_body, chunk_timeout=0.5)
    monkeypatch.setattr("calls_api.app.LIMITS", limits)
    settings = settings.model_copy(update={"hosts": (HOST,)})
    async with listen(settings) as port:
        for name, data, statuses, code in TABLE:
            with subtests.test(name):
                answer = await send(port, data)
                assert answer.status in statuses, answer
                assert len(answer.body) < 16_384
                sent_back = repr(answer)
                assert CANARY not in sent_back
                assert "set-cookie" not in dict(answer.headers)
                assert "Traceback" not in sent_back
                if code is not None:
                    assert answer.code == code
                if ("x-service-name", "calls-api") in answer.headers:
                    assert valid_id(answer.header("x-request-id"))
                    assert answer.header("x-content-type-options") == "nosniff"
                else:  # it was no HTTP, or more than the server reads
                    assert answer.status == 400
        # It serves on, and has kept only what was in order.
        assert (await send(port, post(CALL))).status == 201
        listed = await send(port, request())
        assert [each["phone_number"] for each in json.loads(listed.body)["data"]] == [
            "+4930123456"
        ] * 2
    lines = log.getvalue().splitlines()
    assert len(lines) > 30
    for line in lines:
        assert len(line) < 10_000
        entry = json.loads(line)
        assert entry["level"] in {"info", "warning"}, entry
        assert CANARY not in line


async def test_only_proxies_that_are_trusted_speak_for_clients(settings, listen):
    forged = (
        "X-Forwarded-For: 6.6.6.6, 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "Forwarded: for=6.6.6.6;host=evil.example;proto=https",
    )
    async with listen(settings) as port:
        answer = await send(port, request(GET, *forged))
        links = json.loads(answer.body)["links"]
        assert links["first"] == f"http://{HOST}/calls?limit=50"
    behind = settings.model_copy(update={"proxies": ("127.0.0.1",)})
    async with listen(behind) as port:
        answer = await send(port, request(GET, *forged))
        links = json.loads(answer.body)["links"]
        assert links["first"] == "https://evil.example/calls?limit=50"  # the proxy's word


async def test_slow_clients_keep_nobody_else_waiting(settings, listen):
    async with listen(settings) as port:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for _, writer in slow:
            writer.write(post(CALL, "Content-Length: 100"))
        assert (await send(port, post(CALL))).status == 201
        for _, writer in slow:
            writer.transport.abort()
        assert len(json.loads((await send(port, request())).body)["data"]) == 1
