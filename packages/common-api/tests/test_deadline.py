"""The time that the caller still waits."""

import asyncio
import contextlib
from typing import Any

import pytest
from api_apps import code, make_app
from api_drivers import ask
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from common.api import DeadlineMiddleware
from common.context import remaining


def deadline_app(**options):
    app = make_app(**options)

    @app.get("/left")
    async def left():
        return remaining()

    @app.get("/hang")
    async def hang():
        await asyncio.Event().wait()

    return app


@pytest.mark.parametrize(
    ("header", "options", "left"),
    [
        (None, {}, None),
        ("50", {}, 50),
        ("25.500", {}, 25.5),
        ("50", {"deadline": 20.0}, 20),
        ("50", {"deadline": None}, None),
        (None, {"default_deadline": 70.0}, 70),
        ("30", {"default_deadline": 70.0}, 30),
        ("-1", {}, None),
        ("1e9", {}, None),
        ("nan", {}, None),
        ("9" * 100, {}, None),
        ("\xb2", {}, None),
    ],
)
async def test_the_deadline_is_what_the_caller_still_waits_within_bounds(header, options, left):
    headers = {} if header is None else {"X-Request-Timeout": header.encode("latin-1")}
    found = (await ask(deadline_app(**options), path="/left", headers=headers)).json()
    assert found is None if left is None else left - 15 <= found <= left


@pytest.mark.parametrize("seconds", ["0.02", "0"])
async def test_past_the_deadline_the_handler_is_cancelled(seconds, operations):
    answer = await ask(deadline_app(), path="/hang", headers={"X-Request-Timeout": seconds})
    assert code(answer) == (504, "DEADLINE_EXCEEDED")
    assert operations.server[0].error_code == "DEADLINE_EXCEEDED"


async def test_a_timeout_of_the_handlers_own_is_no_deadline(log):
    app = deadline_app()

    @app.get("/own")
    async def own():
        raise TimeoutError("mine")

    assert (await ask(app, path="/own", headers={"X-Request-Timeout": "60"})).status == 500


async def test_what_follows_the_response_has_no_deadline():
    seen = []

    async def app(scope, receive, send):
        seen.append(remaining())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        await asyncio.sleep(0.6)
        seen.append(remaining())

    answer = await ask(DeadlineMiddleware(app, default=0.5))
    assert (answer.status, answer.error) == (200, None)
    assert 0 <= seen[0] <= 0.5
    assert seen[1] is None
    assert remaining() is None


async def test_background_tasks_of_a_stream_have_no_deadline_either():
    app, seen = deadline_app(default_deadline=60.0), []

    async def background():
        seen.append(remaining())

    @app.get("/stream")
    async def stream():
        async def parts():
            seen.append(remaining())
            yield b"x"

        return StreamingResponse(parts(), background=BackgroundTask(background))

    assert (await ask(app, path="/stream")).status == 200
    assert seen[0] > 0
    assert seen[1] is None


async def test_a_handler_that_does_not_heed_its_deadline_answers_late(log):
    app = deadline_app()

    @app.get("/stubborn")
    async def stubborn():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "late"

    answer = await ask(app, path="/stubborn", headers={"X-Request-Timeout": "0.02"})
    assert (answer.status, answer.json(), answer.error) == (200, "late", None)
    assert [record for record in log if record.name == "common.api"] == []


@pytest.mark.parametrize("name", ["longest", "default"])
@pytest.mark.parametrize("value", ["3", 0, -1])
def test_seconds_that_are_none_are_refused_by_name(name, value):
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name}="):
        DeadlineMiddleware(make_app(), **options)
