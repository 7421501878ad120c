"""The preset behind a real pgbouncer in transaction mode, where one is installed."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from postgres_entities import Call, connect

from common.db.core import StatementTimeout, UniqueViolationError
from common.db.postgres import PostgresDatabase, orm_session, transaction_lock
from common.testing import ManagedProcess, PostgresServer, reserve_port

CONFIG = """
[databases]
* = host=127.0.0.1 port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_reset_query_always = 0
unix_socket_dir =
"""


@pytest.fixture
async def pooled(postgres_url: str, tmp_path: Path) -> AsyncIterator[PostgresDatabase]:
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    url = urlsplit(postgres_url)
    with reserve_port() as listen:
        settings = tmp_path / "pgbouncer.ini"
        settings.write_text(
            CONFIG.format(port=url.port, user=url.username, password=url.password, listen=listen)
        )
        settings.chmod(0o644)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        command = [program, "-u", "nobody", str(settings)]
        async with ManagedProcess(*command, ready=listen):
            through = f"postgresql://{url.username}:x@127.0.0.1:{listen}{url.path}?sslmode=disable"
            async with connect(through, pgbouncer=True, statement_timeout_seconds=2) as database:
                yield database


async def test_everything_works_while_connections_are_shared(pooled: PostgresDatabase):
    calls = pooled.repository(Call)
    await calls.add_many([Call(key, f"n{key}") for key in range(500)])
    await calls.upsert_many([Call(key, f"n{key}", note="x") for key in range(400, 600)])

    async def mixed(number: int) -> None:
        for key in range(number * 10, number * 10 + 10):
            call = await calls.get(key)
            await calls.update(key, {"note": "y"}, expected=call.version)
            assert len((await calls.find(limit=number + 1)).items) == number + 1
            async with pooled.transaction() as unit:
                await transaction_lock(unit, f"lock {key % 3}")
                session = await orm_session(unit)
                assert await session.scalar(sa.text("SELECT 1"))

    await asyncio.gather(*[mixed(number) for number in range(20)])
    assert len([call async for call in calls.stream(batch=50)]) == 600
    with pytest.raises(UniqueViolationError):
        await calls.add(Call(1_000, "n1"))


async def test_the_statement_timeout_holds_without_settings_of_a_session(
    pooled: PostgresDatabase,
):
    with pytest.raises(StatementTimeout) as caught:
        async with pooled.session() as session:
            await session.execute(sa.text("SELECT pg_sleep(20)"))
    assert caught.value.error_code == "57014"


async def test_nothing_is_left_on_a_connection_that_another_client_may_get(postgres_url: str):
    async with connect(postgres_url, pgbouncer=True, statement_timeout_seconds=7) as database:
        calls = database.repository(Call)
        await calls.upsert_many([Call(1, "a"), Call(2, "b")])
        await calls.add_many([Call(3, "c")])
        await calls.update(1, {"note": "x"}, expected=1)
        assert await calls.count() == len([call async for call in calls.stream(batch=1)])
        async with database.transaction() as unit:
            await transaction_lock(unit, "a")
            session = await orm_session(unit)
            assert await session.scalar(sa.text("SHOW statement_timeout")) == "7s"
            connection: Any = unit.session.connection  # type: ignore[attr-defined]
        rows = await connection.fetch("SELECT name FROM pg_prepared_statements")
        assert rows == []
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1"
        assert await connection.fetchval(locks, connection.get_server_pid()) == 0
        changed = (
            "SELECT name FROM pg_settings WHERE source IN ('client', 'session') "
            "AND name NOT IN ('application_name', 'client_encoding')"
        )
        assert await connection.fetch(changed) == []


async def test_without_a_pooler_the_preset_works_just_the_same(postgres_url: str):
    async with connect(postgres_url, pgbouncer=True) as database:
        calls = database.repository(Call)
        await calls.add_many([Call(1, "a"), Call(2, "b")])
        assert (await calls.get(1)).number == "a"
        assert await calls.delete(1)
        assert [call.id async for call in calls.stream()] == [2]
        assert isinstance(database, PostgresDatabase)
    async with PostgresServer() as server, connect(server.url, pgbouncer=True) as database:
        assert (await database.health()).ok
        await server.restart()
        assert list(await database.select(sa.text("SELECT 1").columns(sa.column("one")))) == [(1,)]
