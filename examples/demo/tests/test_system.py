"""The services together, and what they may rely on of each other."""

import asyncio
import json
import sysconfig
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import nats
import pytest
from demo.stored import Records
from pydantic import SecretStr

from common.events.core import DEAD_LETTERS
from common.events.nats import NatsConfig, NatsTransport
from common.testing import ManagedProcess, reserve_port

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def services(stack, postgres_url, nats_url, redis_url):
    """Make processes of both services, which the test starts in any order, each with a relay.

    All workers report to the calls-api that is made first.
    """
    ports = [stack.enter_context(reserve_port()) for _ in range(2)]
    free = iter(ports)

    def calls_api():
        port = next(free)
        environment = {
            "CALLS_DATABASE__URL": postgres_url,
            "CALLS_NATS__SERVERS": json.dumps([nats_url]),
            "CALLS_REDIS_URL": redis_url,
            "CALLS_PORT": str(port),
            "CALLS_DRAIN_SECONDS": "0",
        }
        process = ManagedProcess(
            SCRIPTS / "calls-api", env=environment, ready=port, ready_timeout=60
        )
        relay = ManagedProcess(SCRIPTS / "calls-api-relay", env=environment)
        return (
            process,
            relay,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60),
        )

    def post_processing():
        environment = {
            "POST_PROCESSING_DATABASE__URL": postgres_url,
            "POST_PROCESSING_NATS__SERVERS": json.dumps([nats_url]),
            "POST_PROCESSING_CALLS_API_URL": f"http://127.0.0.1:{ports[0]}",
        }
        return (
            ManagedProcess(SCRIPTS / "post-processing", env=environment),
            ManagedProcess(SCRIPTS / "post-processing-relay", env=environment),
        )

    return calls_api, post_processing


async def make_call(http, **headers):
    started = await http.post("/calls", json={"phone_number": "+4930123456"})
    call_id = started.raise_for_status().json()["data"]["call_id"]
    end = {"status": "completed", "duration_seconds": 12}
    (await http.post(f"/calls/{call_id}/end", json=end, headers=headers)).raise_for_status()
    return call_id


async def processed(http, call_id):
    async with asyncio.timeout(60):
        while True:
            call = (await http.get(f"/calls/{call_id}")).raise_for_status().json()["data"]
            if call["processed_at"]:
                return call
            await asyncio.sleep(0.05)


async def unprocessed(http):
    page = (await http.get("/calls", params={"processed": "false"})).raise_for_status().json()
    return [call["call_id"] for call in page["data"]]


@pytest.mark.chaos
async def test_two_replicas_of_each_service_start_at_the_same_time(stack, services, postgres_url):
    calls_api, post_processing = services
    (first, relay, http), (second, standby, other) = calls_api(), calls_api()
    workers = *post_processing(), *post_processing()
    await asyncio.gather(
        *(
            stack.enter_async_context(each)
            for each in (first, second, relay, standby, *workers, http, other)
        )
    )
    call_ids = [await make_call(each) for each in (http, other) * 5]
    for call_id in call_ids:
        await processed(http, call_id)
    summary = (await other.get("/summary")).json()["data"]
    assert summary["processed"] == len(call_ids)
    assert await Records(postgres_url).count() == (len(call_ids), len(call_ids))
    assert all(each.running for each in (relay, standby, *workers))


@pytest.mark.chaos
async def test_the_worker_may_start_first_or_last(stack, services):
    calls_api, post_processing = services
    worker, worker_relay = post_processing()
    process, relay, http = calls_api()
    for each in (worker, worker_relay, process, relay, http):
        await stack.enter_async_context(each)
    await processed(http, await make_call(http))
    await worker.stop()
    call_id = await make_call(http)
    assert await unprocessed(http) == [call_id]
    await worker.start()
    await processed(http, call_id)
    assert await unprocessed(http) == []


async def test_one_request_is_followed_from_end_to_end(stack, services, nats_url):
    calls_api, post_processing = services
    process, relay, http = calls_api()
    worker, worker_relay = post_processing()
    for each in (process, relay, http, worker, worker_relay):
        await stack.enter_async_context(each)
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    sent = {"X-Request-ID": "r-7", "traceparent": f"00-{trace_id}-{span_id}-01"}
    await make_call(http)
    call = await processed(http, await make_call(http, **sent))
    call_id = call["call_id"]

    async with NatsTransport(NatsConfig(servers=(SecretStr(nats_url),))) as transport:
        events = [
            json.loads(message.data)
            for stream in ("CALL", "TRANSCRIPT")
            for message in await transport.browse(stream)
        ]
    found = [event for event in events if event["subject"] == call_id]
    assert [event["type"] for event in found] == ["call.completed", "transcript.processed"]
    assert found[1]["causationid"] == found[0]["id"]
    spans = [event["traceparent"].split("-") for event in found]
    assert [(span[1], span[3]) for span in spans] == [(trace_id, "01")] * 2
    assert len({span_id, *(span[2] for span in spans)}) == 3  # each hop has a span of its own

    async with asyncio.timeout(60):  # who reported knows it only after who was reported to
        while f"call {call_id} is reported" not in worker.output():
            await asyncio.sleep(0.05)
    lines = [
        json.loads(line)
        for service in (process, worker)
        for line in service.output().splitlines()
        if call_id in line
    ]
    own = [line for line in lines if line.get("trace_id") == trace_id]
    # Each once: on a slow machine a report may be sent a second time.
    assert list(dict.fromkeys(line["event"].replace(call_id, "…") for line in own)) == [
        "call … ended",
        "call … is processed",  # the worker's request
        f"call … gets transcript record {call['transcript_id']}",
        "call … is reported",
    ]
    assert own[0]["request_id"] == "r-7"
    for each in (*own, *({"correlation_id": event["correlationid"]} for event in found)):
        assert each["correlation_id"] == "r-7"
    assert {line["event"] for line in lines if line not in own} == {f"call {call_id} started"}


@pytest.mark.chaos
async def test_without_calls_api_nothing_is_lost_and_nothing_done_twice(
    stack, services, postgres_url, nats_url
):
    calls_api, post_processing = services
    process, relay, http = calls_api()
    for each in (process, relay, http, *post_processing()):
        await stack.enter_async_context(each)
    records = Records(postgres_url)
    broker = await nats.connect(nats_url)
    stack.push_async_callback(broker.close)

    async def at_least(count, counted):
        async with asyncio.timeout(90):
            while await counted() < count:
                await asyncio.sleep(0.05)

    async def written():
        return (await records.count())[0]

    async def deliveries():
        info = await broker.jetstream().consumer_info("TRANSCRIPT", "post-processing-reports")
        return info.delivered.consumer_seq if info.delivered else 0

    made = [await make_call(http)]
    await processed(http, made[0])
    for fault, mend in (
        (process.pause, asyncio.to_thread(process.resume)),
        (process.kill, process.start()),
    ):
        made += await asyncio.gather(*(make_call(http) for _ in range(20)))
        fault()
        await at_least(len(made), written)  # the worker goes on
        await at_least(await deliveries() + 5, deliveries)  # its reports come again
        await mend
        for call_id in made:
            await processed(http, call_id)
    assert await records.count() == (len(made), len(made))
    assert await unprocessed(http) == []
    streams = await broker.jetstream().streams_info()
    letters = {stream.config.name: stream.state.messages for stream in streams}[DEAD_LETTERS]
    assert letters == 0
