"""Nothing secret is in an error, in what it came from, in a repr, a log line or an operation."""

import asyncio
import gc
import logging
import traceback

import httpx
import pytest
from pydantic import BaseModel

from common.clients import Limits, ServiceKey, ServiceToken
from common.clients._redirect import Hop
from common.context import observe
from common.errors import AppError

# Put together, so that the source lines of a traceback do not have it.
CANARY = "can" + "ary"


class Account(BaseModel):
    id: int


class Observer:
    def __init__(self):
        self.seen = []

    def on_start(self, op):
        pass

    def on_end(self, op):
        self.seen.append((op.name, dict(op.attributes), repr(op.error), op.error_code))


def shown(error):
    """All that a logger or debugger may show of an error and of those it came from."""
    parts = ["".join(traceback.format_exception(error)), repr(error)]
    queue, seen = [error], set()
    while queue:
        each = queue.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        state = {name: value for name, value in vars(each).items() if name != "_problem"}
        parts += [repr(each.args), repr(state), repr(getattr(each, "object", ""))]
        parts.append(repr(each.to_dict()) if isinstance(each, AppError) else "")
        queue += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return "\n".join(parts)


def asking(client):
    """Calls with a secret wherever one may be."""
    return [
        client.get("/a", params={"token": CANARY}),
        client.get("/a/{id}", path={"id": CANARY}),
        client.get("/a", headers={"Authorization": f"Bearer {CANARY}", "Cookie": CANARY}),
        client.post("/a", json={"password": CANARY}, idempotency_key=CANARY),
        client.post("/a", content=CANARY, into=Account),
    ]


def refused_here(client):
    return [
        client.get("/a/{id}", path={"id": f"{CANARY}\n"}),
        client.get("/a/{id}", path={"id": f"{CANARY}\ud800"}),
        client.get("/a/{id}", path={"id": f"../{CANARY}"}),
        client.get("/a/{id}", path={"id": CANARY.encode()}),
        client.get("/a", params={"q": f"{CANARY}\ud800"}),
        client.get("/a", params={"q": "x" * 9000 + CANARY}),
        client.get("/a", params={"q": {CANARY: 1}}),
        client.get("/a", headers={"X-Token": f"{CANARY}\r\nX: y"}),
        client.get("/a", headers={"X-Token": f" {CANARY}"}),
        client.post("/a", json={"password": f"{CANARY}\ud800"}),
        client.post("/a", content=f"{CANARY}\ud800"),
        client.post("/a", idempotency_key=f"{CANARY} key"),
    ]


def replies(answer):
    """Answers that send the secret back, in every place there is."""
    body = CANARY.encode()
    return [
        answer(500, {"echo": CANARY}),
        answer(422, {"detail": CANARY, "title": CANARY}, content_type="application/problem+json"),
        answer(400, {"error": {"message": CANARY}}),
        answer(302, location=f"http://{CANARY}.internal/{CANARY}"),
        answer(302, location=f"http://user:{CANARY}@billing.internal/"),
        answer(302, location=f"http://{CANARY}[/"),
        answer(503, retry_after=CANARY, date=CANARY),
        answer(500, set_cookie=CANARY, content_encoding=CANARY),
        answer(200, body, content_encoding=CANARY),
        answer(200, body * 1000),
        answer(200, body, content_length=CANARY),
        b"HTTP/1.1 200 " + body + b"\r\n" + body + b" " + body + b"\r\n\r\n",
        b"HTTP/1.1 " + body + b"\r\n\r\n",
        body + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: " + body + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"\r\n",
        None,
    ]


@pytest.mark.parametrize("auth", [ServiceKey(CANARY), ServiceToken(CANARY)], ids=["key", "token"])
async def test_what_is_sent_is_nowhere_else(upstream, connect, reply_with, auth, caplog):
    caplog.set_level(logging.DEBUG)
    observer = Observer()
    client = connect(auth=auth, retry=False, breaker=False, follow_redirects=1)
    hop = Hop("GET", httpx.URL(upstream.url), [("X-Token", CANARY)], content=False)
    assert CANARY not in f"{client!r}{auth!r}{client.config!r}{hop!r}"
    failures = 0
    async with client:
        with observe(observer):
            for number in range(6):
                upstream.reply = lambda request, number=number: [
                    reply_with(500),
                    reply_with(404, b"x" * 100_000),
                    reply_with(302, location="/b"),
                    b"nonsense\r\n\r\n",
                    reply_with(200, b"{"),
                    None,
                ][number]
                for result in await asyncio.gather(*asking(client), return_exceptions=True):
                    if isinstance(result, BaseException):
                        assert isinstance(result, AppError)
                        failures += 1
                        assert CANARY not in shown(result)
                    assert CANARY not in repr(result)
            await upstream.stop()
            for call in (*asking(client), *refused_here(client)):
                with pytest.raises((AppError, TypeError)) as raised:
                    await call
                assert CANARY not in shown(raised.value)
    assert failures > 20
    assert len(observer.seen) > 30
    assert CANARY not in repr(observer.seen)
    assert CANARY not in caplog.text


async def test_what_comes_back_is_in_no_error(upstream, connect, reply_with):
    async with connect(retry=False, limits=Limits(max_response_bytes=1000)) as client:
        for reply in replies(reply_with):
            upstream.reply = lambda request, reply=reply: reply
            with pytest.raises(AppError) as raised:
                await client.get("/a", into=Account)
            assert CANARY not in shown(raised.value), reply
    gc.collect()
