"""The service while its servers die."""

import asyncio
import json

import pytest
from calls_api.events import make_bus
from calls_api.settings import Database, Nats
from pydantic import SecretStr

from common.testing import NatsServer, PostgresServer

STARTED = {"phone_number": "+4930123456"}
ENDED = {"status": "completed", "duration_seconds": 12}
CALLERS = 8


async def test_a_killed_database_is_a_typed_503_and_no_acknowledged_call_is_lost(settings, serve):
    started, ended, failures = set(), set(), []
    stopping = asyncio.Event()

    async def make_calls(api):
        while not stopping.is_set():
            answer = await api.post("/calls", json=STARTED)
            if answer.status_code == 201:
                started.add(call_id := answer.json()["call_id"])
                answer = await api.post(f"/calls/{call_id}/end", json=ENDED)
                if answer.status_code == 200:
                    ended.add(call_id)
            if answer.is_error:
                failures.append(answer)
                await asyncio.sleep(0.02)

    async def until(condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    async with PostgresServer() as server:
        settings = settings.model_copy(update={"database": Database(url=SecretStr(server.url))})
        async with serve(settings) as api:
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(make_calls(api))
                await until(lambda: len(ended) > 20)
                server.kill()
                await until(lambda: len(failures) > 5 * CALLERS)
                unready = await api.get("/readyz")
                assert (unready.status_code, unready.json()["ok"]) == (503, False)
                assert (await api.get("/livez")).status_code == 200
                before = len(ended)
                await server.restart()
                await until(lambda: len(ended) > before + 20)
                stopping.set()
            assert (await api.get("/readyz")).status_code == 200
            stored = {call["call_id"]: call for call in await everything(api)}
            async with asyncio.timeout(60):  # what was not published at once is published later
                while (books := (await api.get("/summary")).json())["published"] < books["ended"]:
                    await asyncio.sleep(0.1)

    for failure in failures:
        assert failure.status_code == 503
        assert failure.json()["error"]["code"] in {
            "DB_CONNECTION_LOST",
            "DB_COMMIT_OUTCOME_UNKNOWN",
        }
    assert started <= stored.keys()
    assert all(stored[call_id]["ended_at"] for call_id in ended)
    for call in stored.values():
        whole = call["status"] == "completed" and call["duration_seconds"] == 12
        assert whole if call["ended_at"] else call["status"] == "initiated"


async def everything(api):
    found, query = [], {"limit": 1000}
    while True:
        page = (await api.get("/calls", params=query)).json()
        found += page["calls"]
        if page["next_after"] is None:
            return found
        query["after"] = page["next_after"]


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_while_the_broker_is_away_no_request_fails_and_no_event_is_lost(
    settings, serve, fault
):
    async def make_calls(api, count):
        made = []
        for _ in range(count):
            answer = await api.post("/calls", json=STARTED)
            assert answer.status_code == 201, answer.text
            made.append(answer.json()["call_id"])
            answer = await api.post(f"/calls/{made[-1]}/end", json=ENDED)
            assert answer.status_code == 200, answer.text
        return made

    async def books(api, *, published):
        async with asyncio.timeout(60):
            while (await api.get("/summary")).json()["published"] < published:
                await asyncio.sleep(0.1)

    async with NatsServer() as server:
        settings = settings.model_copy(update={"nats": Nats(servers=(SecretStr(server.url),))})
        async with serve(settings) as api:
            made = await make_calls(api, 3)
            under_way = [asyncio.create_task(make_calls(api, 30)) for _ in range(CALLERS)]
            await books(api, published=10)
            getattr(server, fault)()
            made += await make_calls(api, 1)  # ended without a broker for certain
            ready = await api.get("/readyz")
            assert (ready.status_code, ready.json()["ok"]) == (200, True)
            assert ready.json()["degraded"] is True
            assert ready.json()["events"]["transport"]["error"]
            await (server.restart() if fault == "kill" else asyncio.to_thread(server.resume))
            made += [call_id for task in under_way for call_id in await task]
            await books(api, published=len(made))
            ready = await api.get("/readyz")
            assert ready.json()["degraded"] is False
            async with make_bus(settings) as bus:
                stored = await bus.transport.browse("CALL", limit=len(made) + 10)
            assert sorted(json.loads(each.data)["subject"] for each in stored) == sorted(made)
