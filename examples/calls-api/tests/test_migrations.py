"""Replicas, as processes of their own, on a database that has no tables yet."""

import asyncio
import json
import sysconfig
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from calls_api.settings import Database
from calls_api.tables import migrations

from common.testing import ManagedProcess, reserve_port

SERVICE = Path(sysconfig.get_path("scripts")) / "calls-api"
KEYS = json.dumps(["k" * 32])


@pytest.fixture
async def connection(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
def replica(postgres_url, nats_url, redis_url):
    @asynccontextmanager
    async def start(*, keys=KEYS, listening=True):
        with reserve_port() as port:
            process = ManagedProcess(
                SERVICE,
                env={
                    "CALLS_DATABASE__URL": postgres_url,
                    "CALLS_DATABASE__CURSOR_KEYS": keys,
                    "CALLS_NATS__SERVERS": json.dumps([nats_url]),
                    "CALLS_REDIS_URL": redis_url,
                    "CALLS_PORT": str(port),
                },
                ready=port if listening else None,
                ready_timeout=60,
            )
            url = f"http://127.0.0.1:{port}"
            async with process, httpx.AsyncClient(base_url=url, trust_env=False) as client:
                yield process, client

    return start


async def test_the_migrations_make_what_the_models_say(postgres_url):
    manager = migrations(Database(url=postgres_url))
    applied = await manager.upgrade()
    assert len(applied) == len(await manager.history()) > 0
    assert await manager.check() == []
    assert await manager.downgrade("base") == applied[::-1]


async def test_replicas_that_start_together_migrate_once_and_share_cursors(replica, connection):
    replicas = [replica(), replica()]
    (_, first), (_, second) = await asyncio.gather(*(each.__aenter__() for each in replicas))
    try:
        assert await connection.fetchval("select count(*) from calls_api.alembic_version") == 1
        made = []
        for client in (first, second, first):
            answer = await client.post("/calls", json={"phone_number": "+4930123456"})
            made.append(answer.json()["call_id"])
        page = (await first.get("/calls", params={"limit": 1})).json()
        query = {"after": page["next_after"]}
        rest = (await second.get("/calls", params=query)).json()
        assert [call["call_id"] for call in page["calls"] + rest["calls"]] == made
        async with replica(keys=json.dumps(["o" * 32])) as (_, stranger):
            assert (await stranger.get("/calls", params=query)).status_code == 422
    finally:
        await asyncio.gather(*(each.__aexit__(None, None, None) for each in replicas))


async def test_a_replica_killed_while_it_migrates_is_followed_by_the_next(
    replica, connection, postgres_url
):
    await connection.execute("create schema calls_api")
    blocker = await asyncpg.connect(postgres_url)
    blocking = blocker.transaction()
    await blocking.start()
    await blocker.execute("create table calls_api.calls ()")  # the migration must wait for it
    async with replica(listening=False) as (killed, _):
        await blocked_migration(connection)
        killed.kill()
        async with replica(listening=False) as (following, client):
            await blocking.rollback()
            await blocker.close()
            async with asyncio.timeout(60):
                while True:
                    try:
                        ready = await client.get("/readyz")
                        break
                    except httpx.TransportError:
                        assert following.running, following.output()
                        await asyncio.sleep(0.05)
            assert ready.status_code == 200
            answer = await client.post("/calls", json={"phone_number": "+4930123456"})
            assert answer.status_code == 201
    assert await connection.fetchval("select count(*) from calls_api.alembic_version") == 1


async def blocked_migration(connection):
    async with asyncio.timeout(60):
        while not await connection.fetchval(
            "select exists (select from pg_stat_activity where datname = current_database()"
            " and application_name = 'calls-api migrations' and wait_event_type = 'Lock')"
        ):
            await asyncio.sleep(0.05)
