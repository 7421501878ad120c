"""Errors are classified by SQLSTATE, and quote no values."""

import asyncio
import socket
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from postgres_entities import Call, connect

from common.db.core import (
    CommitOutcomeUnknown,
    ConnectionLost,
    Deadlock,
    F,
    LockTimeout,
    PoolTimeout,
    SerializationConflict,
    StatementTimeout,
    TooManyConnections,
    UniqueViolationError,
)
from common.db.postgres import PostgresDatabase
from common.db.postgres._errors import lost, translate
from common.errors import DatabaseError, ValidationError, is_retryable
from common.testing import FaultProxy, PostgresServer


def error(sqlstate: str, **fields: str) -> asyncpg.PostgresError:
    made = asyncpg.PostgresError("s3cret value")
    made.sqlstate = sqlstate  # type: ignore[attr-defined]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("sqlstate", "kind", "retryable"),
    [
        ("40001", SerializationConflict, True),
        ("40P01", Deadlock, True),
        ("40003", CommitOutcomeUnknown, False),
        ("55P03", LockTimeout, True),
        ("57014", StatementTimeout, True),
        ("25P04", StatementTimeout, True),
        ("53300", TooManyConnections, True),
        ("57P01", ConnectionLost, True),
        ("57P03", ConnectionLost, True),
        ("08006", ConnectionLost, True),
        ("22001", ValidationError, False),
        ("22P05", ValidationError, False),
        ("54000", ValidationError, False),
        ("53100", DatabaseError, True),
        ("28P01", DatabaseError, False),
        ("3D000", DatabaseError, False),
        ("25006", DatabaseError, False),
        ("99999", DatabaseError, False),
    ],
)
def test_a_sqlstate_has_its_error(sqlstate: str, kind: type[Exception], retryable: bool):
    cause = error(sqlstate)
    found = translate(cause)
    assert type(found) is kind
    assert found.__cause__ is cause
    assert is_retryable(found) is retryable
    assert "s3cret" not in f"{found!r} {found} {found.to_dict()}"


def test_the_text_of_a_message_decides_nothing():
    assert not lost(asyncpg.InterfaceError("connection is closed"))
    assert lost(asyncpg.InterfaceError("anything"), closed=True)
    assert isinstance(translate(OSError()), ConnectionLost)
    assert isinstance(translate(TimeoutError(), seconds=2), StatementTimeout)
    assert isinstance(translate(asyncpg.DataError("x"), closed=True), ValidationError)


async def test_an_error_of_the_database_quotes_no_value(database: PostgresDatabase):
    calls = database.repository(Call)
    await calls.add(Call(1, "+49 s3cret"))
    with pytest.raises(UniqueViolationError) as caught:
        await calls.add_many([Call(2, "+49 s3cret")])
    assert caught.value.fields == ("number",)
    assert isinstance(caught.value.__cause__, asyncpg.UniqueViolationError)
    assert "s3cret" not in f"{caught.value!r} {caught.value.to_dict()}"
    with pytest.raises(UniqueViolationError) as caught:
        await calls.upsert_many([Call(3, "x"), Call(4, "+49 s3cret")])
    assert await calls.count() == 1


async def test_a_wrong_password_is_refused_without_being_shown(postgres_url: str):
    user, _, host = postgres_url.rpartition("@")
    wrong = user.rpartition(":")[0] + ":s3cret@" + host
    with pytest.raises(DatabaseError) as caught:
        async with connect(wrong):
            pass
    assert caught.value.error_code == "28P01"
    assert not is_retryable(caught.value)
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_a_database_that_does_not_exist(postgres_url: str):
    with pytest.raises(DatabaseError) as caught:
        async with connect(postgres_url.rpartition("/")[0] + "/missing"):
            pass
    assert caught.value.error_code == "3D000"


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_an_unreachable_host_is_a_lost_connection(host: str):
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(ConnectionLost) as caught:
            async with connect(f"postgresql://ada:s3cret@{host}:{port}/calls"):
                pass
    assert isinstance(caught.value.__cause__, OSError)
    assert f"{host}:{port}" in caught.value.message
    assert "s3cret" not in f"{caught.value!r}"


async def test_a_server_that_accepts_and_says_nothing(postgres_url: str):
    async with FaultProxy(postgres_url) as proxy:
        proxy.stall()
        with pytest.raises((ConnectionLost, PoolTimeout)):
            async with connect(proxy.url(postgres_url), connect_timeout_seconds=0.2):
                pass


async def test_a_server_that_is_starting_up_is_worth_a_retry():
    async with PostgresServer() as server:
        url = server.url
        await server.stop()
        with pytest.raises(ConnectionLost) as caught:
            async with connect(url):
                pass
        assert is_retryable(caught.value)


async def test_a_table_that_is_missing_names_the_remedy(postgres_url: str):
    async with connect(postgres_url, schema_name="elsewhere") as database:
        with pytest.raises(DatabaseError, match="migrations") as caught:
            await database.repository(Call).count()
        assert caught.value.error_code == "42P01"


async def test_health_tells_of_a_database_that_is_down(postgres_url: str):
    async with FaultProxy(postgres_url) as proxy, connect(proxy.url(postgres_url)) as database:
        health = await database.health()
        assert health.ok
        assert health.latency is not None
        assert health.pool is not None
        assert (health.pool.size, health.pool.idle) == (20, 1)
        proxy.cut()
        proxy.refuse()
        await asyncio.sleep(0.05)
        health = await database.health()
        assert not health.ok
        assert health.error == "DB_CONNECTION_LOST"


async def test_a_user_without_rights_is_told_so(database: PostgresDatabase, postgres_url: str):
    guest = f"guest_{uuid4().hex}"  # roles belong to the whole server
    async with database.session() as session:
        for statement in (
            f"CREATE ROLE {guest} LOGIN PASSWORD 's3cret'",
            f"GRANT SELECT ON calls TO {guest}",
        ):
            await session.execute(sa.text(statement))
    try:
        async with connect(
            f"postgresql://{guest}:s3cret@{postgres_url.rpartition('@')[2]}"
        ) as limited:
            assert await limited.repository(Call).count() == 0
            with pytest.raises(DatabaseError, match="may not") as caught:
                await limited.repository(Call).add(Call(1, "a"))
        assert caught.value.error_code == "42501"
        assert not is_retryable(caught.value)
    finally:
        async with database.session() as session:
            for statement in (f"DROP OWNED BY {guest}", f"DROP ROLE {guest}"):
                await session.execute(sa.text(statement))


async def test_names_with_quotes_are_only_names(postgres_url: str):
    schema = 'a"; DROP TABLE calls; --'
    async with connect(postgres_url, schema_name=schema) as database:
        with pytest.raises(DatabaseError) as caught:
            await database.repository(Call).count(F.number == "'; DROP TABLE calls; --")
        assert caught.value.error_code == "42P01"
    async with connect(postgres_url) as database:
        assert await database.repository(Call).count() == 0
