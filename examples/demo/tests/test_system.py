"""The services together, and what they may rely on of each other."""

import asyncio
import json
import sysconfig
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx
import pytest

from common.testing import ManagedProcess, reserve_port

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def services(stack, postgres_url, nats_url, redis_url):
    """Make processes of both services, which the test starts in any order.

    A relay belongs to calls-api; that of post-processing is not needed here.
    """

    def calls_api():
        port = stack.enter_context(reserve_port())
        environment = {
            "CALLS_DATABASE__URL": postgres_url,
            "CALLS_NATS__SERVERS": json.dumps([nats_url]),
            "CALLS_REDIS_URL": redis_url,
            "CALLS_PORT": str(port),
        }
        process = ManagedProcess(
            SCRIPTS / "calls-api", env=environment, ready=port, ready_timeout=60
        )
        relay = ManagedProcess(SCRIPTS / "calls-api-relay", env=environment)
        return (
            process,
            relay,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False),
        )

    def post_processing():
        environment = {
            "POST_PROCESSING_DATABASE__URL": postgres_url,
            "POST_PROCESSING_NATS__SERVERS": json.dumps([nats_url]),
        }
        return ManagedProcess(SCRIPTS / "post-processing", env=environment)

    return calls_api, post_processing


async def make_call(http):
    started = await http.post("/calls", json={"phone_number": "+4930123456"})
    call_id = started.raise_for_status().json()["call_id"]
    end = {"status": "completed", "duration_seconds": 12}
    (await http.post(f"/calls/{call_id}/end", json=end)).raise_for_status()
    return call_id


async def processed(http, call_id):
    async with asyncio.timeout(60):
        while not (call := (await http.get(f"/calls/{call_id}")).raise_for_status().json())[
            "processed_at"
        ]:
            await asyncio.sleep(0.05)
    return call


async def test_two_replicas_of_each_service_start_at_the_same_time(stack, services):
    calls_api, post_processing = services
    (first, relay, http), (second, standby, other) = calls_api(), calls_api()
    workers = post_processing(), post_processing()
    await asyncio.gather(
        *(
            stack.enter_async_context(each)
            for each in (first, second, relay, standby, *workers, http, other)
        )
    )
    call_ids = [await make_call(each) for each in (http, other) * 5]
    for call_id in call_ids:
        await processed(http, call_id)
    summary = (await other.get("/summary")).json()
    assert summary["processed"] == len(call_ids)
    assert summary["duplicate_effects"] == 0
    assert all(each.running for each in (relay, standby, *workers))


@pytest.mark.chaos
async def test_the_worker_may_start_first_or_last(stack, services):
    calls_api, post_processing = services
    worker = await stack.enter_async_context(post_processing())
    process, relay, http = calls_api()
    for each in (process, relay, http):
        await stack.enter_async_context(each)
    await processed(http, await make_call(http))
    await worker.stop()
    call_id = await make_call(http)
    page = (await http.get("/calls", params={"processed": "false"})).json()
    assert [call["call_id"] for call in page["calls"]] == [call_id]
    await worker.start()
    await processed(http, call_id)
    page = (await http.get("/calls", params={"processed": "false"})).json()
    assert page["calls"] == []


async def test_an_effect_applied_twice_shows_in_the_books(stack, services, postgres_url):
    calls_api, post_processing = services
    process, relay, http = calls_api()
    for each in (process, relay, http, post_processing()):
        await stack.enter_async_context(each)
    call = await processed(http, await make_call(http))
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "insert into post_processing.transcripts (session_id, call_id, processing_status)"
        " select gen_random_uuid(), call_id, processing_status from post_processing.transcripts"
    )
    await connection.close()
    assert (await http.get("/summary")).json()["duplicate_effects"] == 1
    assert await processed(http, call["call_id"]) == call
