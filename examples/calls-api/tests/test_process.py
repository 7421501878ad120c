"""The service as a process of its own: drained, and unable to start."""

import asyncio
import json
import signal
import sysconfig
from pathlib import Path

import httpx
import pytest
from books import call, end, start

from common.testing import ManagedProcess, reserve_port

COMMAND = Path(sysconfig.get_path("scripts")) / "calls-api"


@pytest.fixture
def port():
    with reserve_port() as port:
        yield port


@pytest.fixture
def environment(port, postgres_url, nats_url, redis_url):
    return {
        "CALLS_DATABASE__URL": postgres_url,
        "CALLS_NATS__SERVERS": json.dumps([nats_url]),
        "CALLS_REDIS_URL": redis_url,
        "CALLS_PORT": str(port),
        "CALLS_DRAIN_SECONDS": "60",
    }


async def test_after_sigterm_it_is_not_ready_and_serves_until_the_drain_is_over(environment, port):
    url = f"http://127.0.0.1:{port}"
    async with ManagedProcess(COMMAND, env=environment, ready=port, ready_timeout=60) as process:
        process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            async with asyncio.timeout(50):
                while (answer := await client.get("/readyz")).status_code != 503:
                    await asyncio.sleep(0.05)
            assert answer.json()["status"] == "draining"
            assert (await client.get("/livez")).status_code == 200
            call_id = await start(client)
            assert (await end(client, call_id)).status_code == 200
            assert (await call(client, call_id))["ended_at"] is not None
        process.send_signal(signal.SIGTERM)  # who insists does not wait for the rest of it
        assert await process.wait(60) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.output()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CALLS_PORT": "0"}, "CALLS_PORT"),
        ({"CALLS_DRAIN": "5"}, "CALLS_DRAIN"),
        ({"CALLS_PROXIES": '["10.0.0.0/99"]'}, "10.0.0.0/99"),
        ({"CALLS_HOSTS": '["https://calls.internal"]'}, "https://calls.internal"),
    ],
)
async def test_what_cannot_work_is_said_without_a_traceback(environment, changes, message):
    async with ManagedProcess(COMMAND, env=environment | changes) as process:
        assert await process.wait(60) == 1
        output = process.output()
    assert message in output
    assert "\ncalls-api: " in f"\n{output}"
    assert "Traceback" not in output


async def test_without_its_database_it_ends_and_says_why(environment):
    away = {"CALLS_DATABASE__URL": "postgresql://calls:hunter2@127.0.0.1:9/calls"}
    async with ManagedProcess(COMMAND, env=environment | away) as process:
        assert await process.wait(60) != 0
        output = process.output()
    assert "127.0.0.1:9 cannot be reached" in output
    assert "Application startup failed" in output
    assert "hunter2" not in output
