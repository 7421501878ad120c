"""The relay as a process of its own: stopped, killed, and unable to start."""

import asyncio
import json
import signal
import sysconfig
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from books import all_published, end, start, summary
from calls_api.events import make_bus

from common.testing import ManagedProcess

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND = SCRIPTS / "calls-api-relay"
PROJECT = Path(__file__).parents[1]
LEASE_SECONDS = 2


@pytest.fixture
def environment(postgres_url, nats_url, redis_url):
    return {
        "CALLS_DATABASE__URL": postgres_url,
        "CALLS_NATS__SERVERS": json.dumps([nats_url]),
        "CALLS_REDIS_URL": redis_url,
        "CALLS_RELAY__LEASE_SECONDS": str(LEASE_SECONDS),
        "CALLS_RELAY__BATCH_SIZE": "5",
    }


def process(environment):
    ready = '"event": "relaying"'
    return ManagedProcess(COMMAND, env=environment, ready=ready, ready_timeout=60)


async def make_calls(api, count):
    made = [await start(api) for _ in range(count)]
    for call_id in made:
        assert (await end(api, call_id)).status_code == 200
    return made


async def test_the_relay_may_start_before_the_service(environment, serve, settings):
    async with process(environment) as relay, serve(settings) as api:
        made = await make_calls(api, 2)
        await published(api, settings, made)
        assert relay.running


async def test_killed_relays_lose_nothing_and_are_replaced(environment, api, settings):
    made = []
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(process(environment))
        for _ in range(3):
            calls = asyncio.create_task(make_calls(api, 40))
            before = len(made)
            await waiting(api, lambda books, before=before: books["ended"] > before + 10)
            relay.kill()
            await relay.start()
            made += await calls
        await published(api, settings, made)


async def test_sigterm_hands_over_at_once(environment, api, settings):
    # A lease that was left to expire would keep the second relay from publishing for an hour.
    patient = environment | {"CALLS_RELAY__LEASE_SECONDS": "3600"}
    async with process(patient) as first:
        made = await make_calls(api, 2)
        await published(api, settings, made)
        first.send_signal(signal.SIGTERM)
        assert await first.wait(60) == 0, first.output()
    made += await make_calls(api, 2)
    async with process(patient):
        await published(api, settings, made)


async def test_of_several_relays_those_left_go_on(environment, api, settings):
    async with process(environment) as first, process(environment) as second:
        made = await make_calls(api, 20)
        first.kill()
        made += await make_calls(api, 20)
        await published(api, settings, made)
        assert second.running


async def test_operators_see_the_outbox_and_that_the_tables_are_right(environment, api):
    async def run(name, *arguments):
        command = (SCRIPTS / name, *arguments)
        async with ManagedProcess(*command, env=environment, cwd=PROJECT) as command:
            return await command.wait(60), command.output()

    await make_calls(api, 2)
    status, output = await run("common-outbox", "--json", "lag")
    assert (status, json.loads(output)["rows"]) == (0, 2), output
    status, output = await run("common-outbox", "status")
    assert (status, "partitions without a relay: 64" in output) == (0, True), output
    status, output = await run("common-db", "check")
    assert status == 0, output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CALLS_NATS__SERVERS": '["nats://relay:hunter2@127.0.0.1:9"]'}, "127.0.0.1:9"),
        ({"CALLS_RELAY__LEASE": "3"}, "CALLS_RELAY__LEASE"),
        ({"CALLS_RELAY__LEASE_SECONDS": "0"}, "lease_seconds"),
    ],
)
async def test_what_cannot_work_is_said_without_a_traceback(environment, changes, message):
    async with ManagedProcess(COMMAND, env=environment | changes) as relay:
        assert await relay.wait(60) == 1
        output = relay.output()
    assert message in output
    assert "\ncalls-api-relay: " in f"\n{output}"
    assert "Traceback" not in output
    assert "hunter2" not in output


async def published(api, settings, call_ids):
    async with make_bus(settings) as bus:
        assert set(await all_published(api, bus)) == set(call_ids)


async def waiting(api, condition):
    async with asyncio.timeout(60):
        while not condition(await summary(api)):
            await asyncio.sleep(0.02)
