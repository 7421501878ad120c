"""From no tables, and from those of the release before, to today's; also by several at once."""

import asyncio
import json
import sysconfig
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from books import all_published, stored, summary
from calls_api.settings import Database
from calls_api.tables import migrations

from common.domain import idempotency_key
from common.testing import ManagedProcess, reserve_port

SERVICE = Path(sysconfig.get_path("scripts")) / "calls-api"
KEYS = json.dumps(["k" * 32])


FIRST = "2d4f86a8e9c0"
"""The migration of the release that marked what was published in `calls.published_at`."""


@pytest.fixture
async def connection(administrator):
    return administrator


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
                    "CALLS_DRAIN_SECONDS": "0",
                },
                ready=port if listening else None,
                ready_timeout=60,
            )
            url = f"http://127.0.0.1:{port}"
            client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=60)
            async with process, client:
                yield process, client

    return start


async def test_the_migrations_make_what_the_models_say(postgres_url):
    manager = migrations(Database(url=postgres_url))
    applied = await manager.upgrade()
    assert len(applied) == len(await manager.history()) > 0
    assert await manager.check() == []
    assert await manager.downgrade("base") == applied[::-1]


@pytest.fixture
async def before(postgres_url, connection):
    """Make the tables of the release before; return a function that adds a call to them."""
    await migrations(Database(url=postgres_url)).upgrade(FIRST)
    at = datetime(2026, 11, 1, 12, 0, 0, 5, UTC)

    async def add(number, *, ended=True, published=False, reason=None):
        await connection.execute(
            "INSERT INTO calls_api.calls (call_id, phone_number, status, duration_seconds,"
            " failure_reason, ended_at, published_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            UUID(int=number),
            "+4930123456",
            ("failed" if reason else "completed") if ended else "initiated",
            12 if ended else None,
            reason,
            at if ended else None,
            at if published else None,
        )
        return str(UUID(int=number))

    return add


async def test_what_the_release_before_had_not_published_is_published(
    before, serve, relay, settings, connection
):
    await before(1, published=True)
    await before(2, ended=False)
    failed = await before(3, reason="user_busy")
    # More than one batch of the migration's.
    await connection.execute(
        "INSERT INTO calls_api.calls (call_id, phone_number, status, duration_seconds, ended_at)"
        " SELECT gen_random_uuid(), '+4930123456', 'completed', 1, now()"
        " FROM generate_series(1, 2100)"
    )
    rows = await connection.fetch(
        "SELECT call_id::text FROM calls_api.calls WHERE published_at IS NULL"
        " AND ended_at IS NOT NULL"
    )
    async with serve(settings) as api:
        assert (await summary(api))["waiting"] == len(rows) == 2101
        assert await columns(connection) >= {"ended_at", "version"}
        assert "published_at" not in await columns(connection)
        await connection.execute(
            "DELETE FROM calls_api.outbox WHERE aggregateid NOT IN"
            " (SELECT aggregateid FROM calls_api.outbox ORDER BY position LIMIT 20)"
            " AND aggregateid <> $1",
            failed,
        )  # the broker need not take them all
        async with relay(settings) as bus:
            assert failed in await all_published(api, bus)
            messages = {json.loads(each.data)["subject"]: each for each in await stored(bus)}
        assert messages.keys() < {row[0] for row in rows}
    envelope = json.loads(messages[failed].data)
    # The id of the release before: whoever handled the event already knows it by that.
    assert envelope["id"] == idempotency_key("calls-api", "call.completed", failed)
    assert (envelope["source"], envelope["time"]) == ("/calls", "2026-11-01T12:00:00.000005Z")
    assert envelope["data"] == {
        "call_id": failed,
        "phone_number": "+4930123456",
        "duration_seconds": 12,
        "status": "failed",
        "failure_reason": "user_busy",
    }


async def test_a_call_that_ends_while_the_tables_change_is_published(
    before, connection, postgres_url
):
    call_id = await before(1, ended=False)
    replica = await asyncpg.connect(postgres_url)
    async with replica.transaction():
        await replica.execute(
            "UPDATE calls_api.calls SET ended_at = now(), status = 'completed',"
            " duration_seconds = 1"
        )
        upgrade = asyncio.create_task(migrations(Database(url=postgres_url)).upgrade())
        await blocked_migration(connection)
    await replica.close()
    await upgrade
    rows = await connection.fetch("SELECT aggregateid FROM calls_api.outbox")
    assert [row[0] for row in rows] == [call_id]


async def test_going_back_leaves_what_waits_to_the_release_before(before, connection, postgres_url):
    published, waiting, going = await before(1, published=True), await before(2), await before(3)
    manager = migrations(Database(url=postgres_url))
    await manager.upgrade()
    await connection.execute("DELETE FROM calls_api.outbox WHERE aggregateid = $1", going)
    await manager.downgrade(FIRST)
    rows = await connection.fetch(
        "SELECT call_id::text FROM calls_api.calls WHERE published_at IS NULL"
    )
    assert {row[0] for row in rows} == {waiting}
    assert await connection.fetchval(
        "SELECT published_at = ended_at FROM calls_api.calls WHERE call_id::text = $1", published
    )
    assert await manager.upgrade()
    rows = await connection.fetch("SELECT aggregateid FROM calls_api.outbox")
    assert [row[0] for row in rows] == [waiting]


async def columns(connection):
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'calls_api' AND table_name = 'calls'"
    )
    return {row[0] for row in rows}


async def test_replicas_that_start_together_migrate_once_and_share_cursors(replica, connection):
    replicas = [replica(), replica()]
    (_, first), (_, second) = await asyncio.gather(*(each.__aenter__() for each in replicas))
    try:
        assert await connection.fetchval("select count(*) from calls_api.alembic_version") == 1
        made = []
        for client in (first, second, first):
            answer = await client.post("/calls", json={"phone_number": "+4930123456"})
            made.append(answer.json()["data"]["call_id"])
        page = (await first.get("/calls", params={"limit": 1})).json()
        query = {"cursor": page["pagination"]["next_cursor"]}
        rest = (await second.get("/calls", params=query)).json()
        assert [call["call_id"] for call in page["data"] + rest["data"]] == made
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
                while not await is_ready(client):
                    assert following.running, following.output()
                    await asyncio.sleep(0.05)
            answer = await client.post("/calls", json={"phone_number": "+4930123456"})
            assert answer.status_code == 201
    assert await connection.fetchval("select count(*) from calls_api.alembic_version") == 1


async def is_ready(client):
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def blocked_migration(connection):
    async with asyncio.timeout(60):
        while not await connection.fetchval(
            "select exists (select from pg_stat_activity where datname = current_database()"
            " and application_name = 'calls-api migrations' and wait_event_type = 'Lock')"
        ):
            await asyncio.sleep(0.05)
