"""Reports to calls-api, which runs as a process of its own or does not."""

import asyncio
import json
import sysconfig
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from feeding import all_settled, dead_letters, progress
from post_processing import reporting
from post_processing.events import make_bus
from post_processing.worker import make_worker

from common.clients import ServiceClient
from common.domain.transcripts import TranscriptProcessed
from common.events.core import Exponential, Retry
from common.testing import ManagedProcess, reserve_port

CALLS_API = Path(sysconfig.get_path("scripts")) / "calls-api"
CONSUMER = {"stream": "TRANSCRIPT", "durable": "post-processing-reports"}


@pytest.fixture
def calls_api(postgres_url, nats_url, redis_url):
    """calls-api, not started yet, and where it will be."""
    with reserve_port() as port:
        environment = {
            "CALLS_DATABASE__URL": postgres_url,
            "CALLS_NATS__SERVERS": json.dumps([nats_url]),
            "CALLS_REDIS_URL": redis_url,
            "CALLS_PORT": str(port),
            "CALLS_DRAIN_SECONDS": "0",
        }
        process = ManagedProcess(CALLS_API, env=environment, ready=port, ready_timeout=60)
        yield process, f"http://127.0.0.1:{port}"


@pytest.fixture
async def http(calls_api):
    async with httpx.AsyncClient(base_url=calls_api[1], trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
async def reports(settings, database, calls_api, monkeypatch):
    """A worker in this process, and the bus that publishes results."""
    # However slow this machine is, nothing shall be sent again for that.
    monkeypatch.setattr("post_processing.worker.ACK_WAIT_SECONDS", 60.0)
    for name in ("TRY_SECONDS", "CALL_SECONDS", "ATTEMPT_SECONDS"):
        monkeypatch.setattr(reporting, name, 60.0)
    settings = settings.model_copy(update={"calls_api_url": calls_api[1]})
    worker = make_worker(settings, database)
    async with make_bus(settings) as bus:
        await worker.start()
        yield bus
        await worker.stop(drain=10)


async def ended(http):
    answer = await http.post("/calls", json={"phone_number": "+4930123456"})
    call_id = answer.raise_for_status().json()["data"]["call_id"]
    end = {"status": "completed", "duration_seconds": 1}
    (await http.post(f"/calls/{call_id}/end", json=end)).raise_for_status()
    return call_id


async def transcript_of(http, call_id):
    call = (await http.get(f"/calls/{call_id}")).raise_for_status().json()["data"]
    return call["transcript_id"]


def result(call_id):
    return TranscriptProcessed(
        call_id=str(call_id),
        session_id=str(uuid4()),
        processing_status="completed",
        transcript_available=True,
    )


async def test_what_calls_api_refuses_for_good_becomes_a_dead_letter(
    calls_api, http, reports, nats_url
):
    async with calls_api[0]:
        first = result(await ended(http))
        for event in (first, first):
            await reports.publish(event)
        async with asyncio.timeout(60):  # or the next record might win
            while await transcript_of(http, first.call_id) is None:
                await asyncio.sleep(0.05)
        for event in (result(first.call_id), result(uuid4()), result("../calls")):
            await reports.publish(event)
        letters = await dead_letters(reports, 3)
        await all_settled(nats_url, **CONSUMER)
        assert await transcript_of(http, first.call_id) == first.session_id
    assert [letter.headers["Dead-Letter-Reason"] for letter in letters] == ["given_up"] * 3
    assert {letter.headers["Dead-Letter-Attempts"] for letter in letters} == {"1"}


async def test_what_is_not_reported_for_long_is_kept_and_reported_in_the_end(
    settings, database, calls_api, http, nats_url, monkeypatch
):
    def client(settings):
        return ServiceClient(
            "calls-api", base_url=settings.calls_api_url, retry=False, breaker=False
        )

    quick = Retry(attempts=reporting.RETRY.attempts, backoff=Exponential(0.01, 0.1))
    monkeypatch.setattr(reporting, "make_client", client)
    monkeypatch.setattr(reporting, "RETRY", quick)
    settings = settings.model_copy(update={"calls_api_url": calls_api[1]})
    process, _ = calls_api
    async with process, make_bus(settings) as bus, AsyncExitStack() as stack:
        events = [result(await ended(http)) for _ in range(3)]
        process.kill()
        worker = make_worker(settings, database)
        await worker.start()
        stack.push_async_callback(worker.stop, drain=10)
        for event in events:
            await bus.publish(event)
        async with asyncio.timeout(60):  # far more often than a failing effect is tried
            while (await progress(nats_url, **CONSUMER)).deliveries < 20 * len(events):
                await asyncio.sleep(0.05)
        assert await dead_letters(bus, 0) == []
        await process.start()
        await all_settled(nats_url, **CONSUMER)
        calls = (await http.get("/calls")).json()["data"]
        assert await dead_letters(bus, 0) == []
    assert {call["call_id"]: call["transcript_id"] for call in calls} == {
        event.call_id: event.session_id for event in events
    }


def test_an_outage_of_hours_is_outlasted():
    retry = reporting.RETRY
    pauses = sum(retry.backoff.seconds(number) for number in range(1, retry.attempts))
    assert pauses / 2 > 6 * 3600  # of each pause, half on average
