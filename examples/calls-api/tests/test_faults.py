"""The service while its servers die."""

import asyncio

import pytest
from books import COMPLETED, STARTED, all_published, end, pages, start, summary
from calls_api.settings import Database, Nats
from pydantic import SecretStr

from common.testing import NatsServer, PostgresServer

CALLERS = 8


async def test_a_killed_database_is_a_typed_503_and_no_acknowledged_call_is_lost(
    settings, serve, relay
):
    started, ended, failures = set(), set(), []
    stopping = asyncio.Event()

    async def make_calls(api):
        while not stopping.is_set():
            answer = await api.post("/calls", json=STARTED)
            if answer.status_code == 201:
                started.add(call_id := answer.json()["data"]["call_id"])
                answer = await api.post(f"/calls/{call_id}/end", json=COMPLETED)
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
        async with serve(settings) as api, relay(settings) as bus:
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(make_calls(api))
                await until(lambda: len(ended) > 20)
                server.kill()
                await until(lambda: len(failures) > 5 * CALLERS)
                async with asyncio.timeout(60):
                    while (unready := await api.get("/readyz")).status_code != 503:
                        await asyncio.sleep(0.05)
                assert unready.json()["checks"]["database"]["status"] != "ok"
                assert (await api.get("/livez")).status_code == 200
                before = len(ended)
                await server.restart()
                await until(lambda: len(ended) > before + 20)
                stopping.set()
            async with asyncio.timeout(60):
                while (await api.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)
            stored = {call["call_id"]: call for call in await pages(api, limit=1000)}
            published = await all_published(api, bus)

    for failure in failures:
        assert failure.status_code == 503
        assert failure.json()["error"]["code"] in {
            "DB_CONNECTION_LOST",
            "DB_COMMIT_OUTCOME_UNKNOWN",
        }
    assert started <= stored.keys()
    assert all(stored[call_id]["ended_at"] for call_id in ended)
    assert set(published) == {call_id for call_id, call in stored.items() if call["ended_at"]}
    for call in stored.values():
        whole = call["status"] == "completed" and call["duration_seconds"] == 12
        assert whole if call["ended_at"] else call["status"] == "initiated"


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_what_is_committed_without_a_broker_is_published_when_it_is_back(
    settings, serve, relay, fault, monkeypatch
):
    monkeypatch.setattr("calls_api.app.LATE_SECONDS", 0.2)

    async def make_calls(api, count):
        made = []
        for _ in range(count):
            made.append(await start(api))
            answer = await end(api, made[-1])
            assert answer.status_code == 200, answer.text
        return made

    async def readiness(api, status, **checks):
        """Wait until readiness is so, and the checks named are or are not in order."""
        async with asyncio.timeout(60):
            while True:
                answer = await api.get("/readyz")
                found = {
                    name: each["status"] == "ok" for name, each in answer.json()["checks"].items()
                }
                if answer.json()["status"] == status and found.items() >= checks.items():
                    assert answer.status_code == 200
                    return
                await asyncio.sleep(0.1)

    async with NatsServer() as server:
        settings = settings.model_copy(update={"nats": Nats(servers=(SecretStr(server.url),))})
        async with serve(settings) as api, relay(settings) as bus:
            made = await make_calls(api, 3)
            under_way = [asyncio.create_task(make_calls(api, 30)) for _ in range(CALLERS)]
            async with asyncio.timeout(60):
                while len(await bus.transport.browse("CALL", limit=10)) < 10:
                    await asyncio.sleep(0.02)
            getattr(server, fault)()
            made += await make_calls(api, 1)  # ended without a broker for certain
            made += [call_id for task in under_way for call_id in await task]
            await readiness(api, "degraded", database=True, outbox=False, nats=False)
            assert (await summary(api))["waiting"] > 0
            await (server.restart() if fault == "kill" else asyncio.to_thread(server.resume))
            await readiness(api, "ok")
            assert set(await all_published(api, bus)) == set(made)


async def test_requests_need_no_broker(settings, serve):
    settings = settings.model_copy(
        update={"nats": Nats(servers=(SecretStr("nats://127.0.0.1:9"),))}
    )
    async with serve(settings) as api:
        assert (await end(api, await start(api))).status_code == 200
        assert (await summary(api))["waiting"] == 1
