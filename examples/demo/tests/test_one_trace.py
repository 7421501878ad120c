"""One trace through two services on real servers: common-api serves, common-clients calls."""

import asyncio
import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from common.api import install
from common.clients import ServiceClient
from common.context import remaining

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}"


@contextmanager
def served(app: FastAPI) -> Generator[str]:
    """Serve an app with uvicorn on a thread of its own."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            threading.Event().wait(0.01)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def last_service() -> FastAPI:
    app = FastAPI()
    install(app, service="last")

    @app.get("/seen")
    async def seen(request: Request) -> dict[str, Any]:
        return {
            "headers": {name: request.headers.getlist(name) for name in set(request.headers)},
            "remaining": remaining(),
        }

    return app


def first_service(url: str) -> FastAPI:
    app = FastAPI()
    install(app, service="first")

    @app.get("/onward")
    async def onward() -> Any:
        # More than callers below have: what is handed on is of their time, not of this.
        async with ServiceClient("last", base_url=url, timeout=600, connect_timeout=600) as client:
            return await client.get("/seen", into=dict[str, Any])

    return app


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with ExitStack() as stack:
        last = stack.enter_context(served(last_service()))
        yield stack.enter_context(served(first_service(last)))


def ask(url: str, *headers: tuple[str, str]) -> tuple[httpx.Response, dict[str, Any], Any]:
    answer = httpx.get(url + "/onward", headers=list(headers), timeout=60)
    assert answer.status_code == 200
    found = answer.json()
    return answer, found["headers"], found["remaining"]


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_trace_and_its_ids_reach_the_last_service(url: str, flags: str) -> None:
    answer, sent, _ = ask(
        url, ("traceparent", f"{PARENT}-{flags}"), ("tracestate", "a=1"), ("tracestate", "b@c=2"),
        ("X-Request-ID", "r-1"), ("X-Correlation-ID", "c-1"),
    )  # fmt: skip
    [parent] = sent["traceparent"]
    assert parent.split("-")[1] == TRACE_ID == answer.headers["x-trace-id"]
    assert parent.endswith(f"-{flags}")
    assert sent["tracestate"] == ["a=1,b@c=2"]
    assert sent["x-correlation-id"] == ["c-1"]
    assert sent["x-request-id"] == ["r-1"]


def test_without_a_parent_both_services_share_a_new_trace(url: str) -> None:
    answer, sent, _ = ask(url, ("traceparent", "nonsense"), ("tracestate", "a=1"))
    assert sent["traceparent"][0].split("-")[1] == answer.headers["x-trace-id"] != TRACE_ID
    assert "tracestate" not in sent
    assert sent["x-request-id"] == [answer.headers["x-request-id"]]


FULL = [f"k{n}=v" for n in range(32)]


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ([",".join(FULL[:20]), ",".join(FULL[20:])], [",".join(FULL)]),
        ([",".join([*FULL, "more=v"])], None),
        (["A=1"], None),
        (["a=1,b"], None),
        (["a=" + "v" * 257], None),
    ],
)
def test_a_state_is_handed_on_whole_or_not_at_all(
    url: str, states: list[str], kept: list[str] | None
) -> None:
    _, sent, _ = ask(
        url, ("traceparent", f"{PARENT}-01"), *(("tracestate", each) for each in states)
    )
    assert sent["traceparent"][0].split("-")[1] == TRACE_ID
    assert sent.get("tracestate") == kept


def test_a_state_beyond_512_characters_is_cut_between_members(url: str) -> None:
    states = [f"k{n}={'v' * 100}" for n in range(10)]
    _, sent, _ = ask(url, ("traceparent", f"{PARENT}-01"), ("tracestate", ",".join(states)))
    members = sent["tracestate"][0].split(",")
    assert members == states[: len(members)]
    assert len(members) >= 4


def test_the_time_left_is_handed_on_and_shrinks(url: str) -> None:
    _, sent, left = ask(url, ("X-Request-Timeout", "60"))
    assert 0 < left < float(sent["x-request-timeout"][0]) < 60


def test_concurrent_traces_do_not_mix(url: str) -> None:
    async def all_of_them() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(
                *(
                    client.get(
                        url + "/onward", headers={"traceparent": f"00-{n:032x}-{SPAN_ID}-00"}
                    )
                    for n in range(1, 41)
                )
            )

    for n, answer in enumerate(asyncio.run(all_of_them()), 1):
        assert answer.headers["x-trace-id"] == f"{n:032x}"
        assert answer.json()["headers"]["traceparent"][0].split("-")[1] == f"{n:032x}"
