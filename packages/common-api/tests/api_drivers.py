"""An ASGI conversation in process, and answers to look at."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    messages: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def start(self):
        return next(m for m in self.messages if "status" in m or m["type"].endswith("accept"))

    @property
    def status(self):
        return self.start["status"]

    @property
    def headers(self):
        return self.start["headers"]

    def header(self, name) -> Any:
        values = self.all(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None

    def all(self, name):
        return [v.decode() for n, v in self.headers if n.decode().lower() == name.lower()]

    @property
    def body(self):
        return b"".join(m.get("body", b"") for m in self.messages)

    def json(self):
        return json.loads(self.body)


def scope_of(method="GET", path="/", *, headers=(), query=b"", kind="http", **more):
    pairs = [(b"host", b"api.test")] if not any(n == b"host" for n, _ in headers) else []
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [*pairs, *headers],
        "client": ("203.0.113.7", 4711),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    if kind == "websocket":
        del scope["method"]
        scope["subprotocols"] = []
        scope["extensions"] = {"websocket.http.response": {}}
    return scope | more


async def talk(app, scope, incoming):
    """Drive an app; ``incoming`` are the messages, after which nothing comes any more."""
    answer, waiting = Answer(), list(incoming)

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message):
        answer.messages.append(message)

    try:
        await app(scope, receive, send)
    except Exception as error:
        answer.error = error
    return answer


async def ask(app, method="GET", path="/", *, body=b"", json_body=None, headers=(), **more):
    headers = [
        (n.lower().encode() if isinstance(n, str) else n, v.encode() if isinstance(v, str) else v)
        for n, v in (headers.items() if isinstance(headers, dict) else headers)
    ]
    if json_body is not None:
        body = json.dumps(json_body).encode()
        headers.append((b"content-type", b"application/json"))
    if body:
        headers.append((b"content-length", str(len(body)).encode()))
    path, _, query = path.partition("?")
    scope = scope_of(method, path, headers=headers, query=query.encode(), **more)
    return await talk(app, scope, [{"type": "http.request", "body": body, "more_body": False}])


@asynccontextmanager
async def alive(app):
    """Between startup and shutdown; yields the state that a server hands to each request."""
    incoming, outgoing, state = asyncio.Queue(), asyncio.Queue(), {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    task = asyncio.create_task(app(scope, incoming.get, outgoing.put))
    try:
        for phase in ("startup", "shutdown"):
            incoming.put_nowait({"type": f"lifespan.{phase}"})
            message = await outgoing.get()
            if message["type"] != f"lifespan.{phase}.complete":
                await task
            if phase == "startup":
                yield state
        await task
    finally:
        task.cancel()


def read_all(sock):
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
