"""The worker as a process of its own: stopped, killed, and unable to start."""

import asyncio
import json
import signal
import sys
import sysconfig
from pathlib import Path
from uuid import uuid4

import pytest
from feeding import (
    all_settled,
    completed,
    dead_letters,
    outgoing,
    processed,
    progress,
    publish,
    told,
)
from post_processing.tables import Transcript
from post_processing.worker import CONCURRENCY

from common.testing import ManagedProcess

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND = SCRIPTS / "post-processing"
PROJECT = Path(__file__).parents[1]
DEADLY_WORKER = Path(__file__).parent / "deadly_worker.py"
CONSUMING = '"event": "consuming"'
RELAYING = '"event": "relaying"'
DEADLY = "+4930999999"


def process(*command, env):
    return ManagedProcess(*command, env=env, ready=CONSUMING, ready_timeout=60)


async def test_sigterm_finishes_what_is_in_hand_and_hands_back_the_rest(
    calls, database, administrator, environment, nats_url
):
    made = [uuid4() for _ in range(3 * CONCURRENCY)]
    # What is not handed back would come again after ten minutes only.
    command = (sys.executable, DEADLY_WORKER, DEADLY, "10", "600")
    async with process(*command, env=environment) as worker:
        blocking = administrator.transaction()
        await blocking.start()
        await administrator.execute("lock table post_processing.transcripts in exclusive mode")
        await publish(calls, *made)
        await waiting(administrator, CONCURRENCY)
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            while "the bus stops" not in worker.output():
                await asyncio.sleep(0.05)
        assert worker.running
        await blocking.rollback()
        assert await worker.wait(30) == 0, worker.output()
        finished = await database.repository(Transcript).count()
        assert finished >= CONCURRENCY
        async with asyncio.timeout(60):  # the broker counts acknowledgements in its own time
            while True:
                now = await progress(nats_url)
                if now.outstanding + now.waiting == len(made) - finished:
                    break
                await asyncio.sleep(0.05)
        await worker.start()
        assert sorted(await processed(database, len(made))) == sorted(made)


async def waiting(administrator, count):
    async with asyncio.timeout(60):
        while count > await administrator.fetchval(
            "select count(*) from pg_locks where not granted"
            " and relation = 'post_processing.transcripts'::regclass"
        ):
            await asyncio.sleep(0.05)


async def test_killed_workers_and_relays_neither_lose_nor_repeat_effects(
    calls, database, environment, nats_url
):
    made = [uuid4() for _ in range(300)]
    relaying = ManagedProcess(
        SCRIPTS / "post-processing-relay", env=environment, ready=RELAYING, ready_timeout=60
    )
    async with process(COMMAND, env=environment) as worker, relaying as relay:
        for start in range(0, len(made), 100):
            await publish(calls, *made[start : start + 100])
            await processed(database, start + 20)
            worker.kill()
            relay.kill()
            await asyncio.gather(worker.start(), relay.start())
        found = await processed(database, len(made))
        await all_settled(nats_url)
        async with asyncio.timeout(60):  # a relay that died may have published some already
            while {each["subject"] for each in await told(calls, 0)} < set(map(str, made)):
                await asyncio.sleep(0.05)
    assert sorted(found) == sorted(made)
    assert await database.repository(Transcript).count() == len(made)
    assert await dead_letters(calls, 0) == []


@pytest.mark.chaos
async def test_a_message_that_kills_the_worker_becomes_a_dead_letter(
    calls, database, environment, nats_url
):
    attempts = 2
    made = [uuid4() for _ in range(5)]
    await publish(calls, *made)
    command = (sys.executable, DEADLY_WORKER, DEADLY, str(attempts), "3")
    async with process(*command, env=environment) as worker:
        await processed(database, len(made))
        deadly = await calls.publish(completed(uuid4(), phone_number=DEADLY))
        for _ in range(attempts):
            assert await worker.wait(60) == -signal.SIGKILL
            await worker.start()
        (letter,) = await dead_letters(calls, 1)
        assert worker.running
        last = uuid4()
        await publish(calls, last)
        await processed(database, len(made) + 1)
        await all_settled(nats_url)
    assert letter.headers["Dead-Letter-Reason"] == "attempts"
    assert letter.headers["Dead-Letter-Sequence"] == str(deadly.sequence)
    assert await database.repository(Transcript).count() == len(made) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"POST_PROCESSING_NATS__SERVERS": '["nats://127.0.0.1:9"]'}, "127.0.0.1:9"),
        ({"POST_PROCESSING_NATS__SERVERS": '["http://127.0.0.1:9"]'}, "nats://"),
        ({"POST_PROCESSING_NATS__SERVER": "nats://127.0.0.1"}, "POST_PROCESSING_NATS__SERVER"),
        ({"POST_PROCESSING_CALLS_API_URL": "calls.internal:80"}, "match pattern '^https?://'"),
        ({"POST_PROCESSING_CALLS_API_URL": "http://calls/?a=b"}, "POST_PROCESSING_CALLS_API_URL"),
    ],
)
@pytest.mark.parametrize("name", ["post-processing", "post-processing-relay"])
async def test_what_cannot_work_is_said_without_a_traceback(environment, changes, message, name):
    env = environment | changes
    async with ManagedProcess(SCRIPTS / name, env=env) as worker:
        assert await worker.wait(60) == 1
        output = worker.output()
    assert message in output
    assert f"\n{name}: " in f"\n{output}"
    assert "Traceback" not in output


async def test_the_secret_of_the_broker_is_never_shown(environment):
    env = environment | {
        "POST_PROCESSING_NATS__SERVERS": json.dumps(["nats://worker:hunter2@127.0.0.1:9"])
    }
    async with ManagedProcess(COMMAND, env=env) as worker:
        assert await worker.wait(60) == 1
        assert "hunter2" not in worker.output()


async def test_operators_see_and_replay_its_dead_letters(calls, database, worker, environment):
    async def common_events(*arguments):
        command = (SCRIPTS / "common-events", *arguments)
        async with ManagedProcess(*command, env=environment, cwd=PROJECT) as process:
            return await process.wait(60), process.output()

    await calls.transport.publish(outgoing(b"not JSON"))
    await dead_letters(calls, 1)
    status, output = await common_events("dlq", "list")
    assert (status, "malformed" in output) == (0, True), output
    status, output = await common_events("streams", "plan")
    assert status == 0, output
    status, output = await common_events("dlq", "replay", "1")
    assert status == 0, output
    async with asyncio.timeout(60):  # it is as bad as before, and comes back as a new letter
        while [each.sequence for each in await dead_letters(calls, 0)] != [2]:
            await asyncio.sleep(0.05)
