"""SELECT with SQLAlchemy: typed, in one round trip, and never a write."""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_type
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import sqlalchemy as sa
from postgres_entities import OTHER, TENANT, Agent, Call, Leg, State, connect, metadata
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

from common.context import bind
from common.db.core import (
    ANY,
    ConnectionLost,
    F,
    SessionStateError,
    StatementTimeout,
    TenantRequiredError,
)
from common.db.postgres import PostgresDatabase
from common.errors import DatabaseError, ValidationError
from common.testing import FaultProxy, cancel_at_every_await

WAITS = (b"S"[0], b"H"[0], b"Q"[0])  # Sync, Flush, Query: documentation, 55.2

calls: Any = metadata.tables["calls"]


async def add_agents(database: PostgresDatabase) -> None:
    mine = database.repository(Agent, tenant=TENANT)
    await mine.add_many([Agent(**TENANT, name=name) for name in ("ada", "bob", "gone")])
    await mine.delete((await mine.find(limit=10)).items[0].id)


async def test_rows_have_the_types_of_the_columns(database: PostgresDatabase):
    await database.repository(Agent, tenant=TENANT).add(Agent(**TENANT, name="ada"))
    statement = sa.select(Agent.id, Agent.name, Agent.state, Agent.full_name)
    rows = await database.select(statement, tenant=TENANT)
    assert_type(rows, Sequence[sa.Row[UUID, str, State, str | None]])
    ((key, name, state, full_name),) = rows
    assert_type(name, str)
    assert isinstance(key, UUID)
    assert (name, state, full_name) == ("ada", State.FREE, None)
    ((agent,),) = await database.select(sa.select(Agent), tenant=TENANT)
    assert_type(agent, Agent)
    assert (agent.id, agent.skills) == (key, None)
    text = await database.select(sa.text("SELECT 1 AS a, 2 AS b").columns(a=sa.Integer, b=sa.Text))
    assert_type(text, Sequence[sa.Row[*tuple[Any, ...]]])
    ((a, b),) = text
    assert (a, b) == (1, 2)


class Wire:
    """Passes connections on to a server, and counts how often a client waits for an answer."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.waits = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.hostname, self._target.port
        server_reader, server_writer = await asyncio.open_connection(host, port)
        back = asyncio.create_task(self._answers(server_reader, writer))
        try:
            started = False
            while True:
                kind = await reader.readexactly(1) if started else b""
                length = await reader.readexactly(4)
                rest = await reader.readexactly(int.from_bytes(length) - 4)
                self.waits += started and kind[0] in WAITS
                started = True
                server_writer.write(kind + length + rest)
        except asyncio.IncompleteReadError:
            pass
        finally:
            back.cancel()
            for each in (server_writer, writer):
                each.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)


@asynccontextmanager
async def counted(url: str):
    wire = Wire(url)
    async with await asyncio.start_server(wire.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        via = url.replace(f":{urlsplit(url).port}/", f":{port}/")
        async with connect(f"{via}?sslmode=disable") as database:
            yield database, wire


async def test_a_select_is_one_round_trip_once_its_statement_is_known(postgres_url: str):
    async with counted(postgres_url) as (database, wire):
        await add_agents(database)
        await database.repository(Call).find(F.id == 1)
        wire.waits = 0
        await database.repository(Call).find(F.id == 1)
        assert wire.waits == 1  # what repositories need, so the count is right
        statements = [
            sa.select(Agent).where(Agent.name.in_(["ada", "bob"])).order_by(Agent.name).limit(5),
            sa.select(sa.func.count(), sa.func.lower(Agent.name)).group_by(Agent.name),
            sa.select(Leg.id).join(Agent).where(Agent.skills.contains(["x"])),
            sa.select(calls.c.id).union_all(sa.select(calls.c.version)),
        ]
        for statement in statements:
            first = await database.select(statement, tenant=TENANT)
            wire.waits = 0
            again = await database.select(statement, tenant=TENANT)
            assert wire.waits == 1
            assert len(again) == len(first)
            wire.waits = 0
            await database.select(statement, tenant=OTHER)
            assert wire.waits == 1
        assert not any(
            slot.connection.is_in_transaction() for slot in database._postgres.primary._idle
        )
        assert database._postgres.pool().in_use == 0


class Plain(DeclarativeBase):
    """Mapped without our Base, so that it may hold expressions."""


class Noted(Plain):
    __tablename__ = "calls"
    id: Mapped[int] = mapped_column(primary_key=True)
    secretly = column_property(sa.func.note_a_call())


deleted = sa.delete(calls).returning(calls.c.id)
WRITES: dict[str, Any] = {
    "delete in with": sa.select(deleted.cte("d")),
    "insert in with": sa.select(
        sa.insert(calls).values(id=9, number="9").returning(calls.c.id).cte("i")
    ),
    "update in with": sa.select(sa.update(calls).values(note="x").returning(calls.c.id).cte("u")),
    "write in a subquery": sa.select(sa.select(deleted.cte("d")).subquery()),
    "writing function": sa.select(sa.func.note_a_call()),
    "function of a schema": sa.select(sa.func.public.count(1)),
    "function of a property": sa.select(Noted),
    "next value": sa.select(sa.Sequence("numbers").next_value()),
    "lock": sa.select(calls.c.id).with_for_update(),
    "text": sa.text("SELECT note_a_call()").columns(sa.column("one")),
    "text of a compound": sa.select(calls.c.id).union_all(
        sa.text("SELECT note_a_call()").columns(sa.column("one"))
    ),
    "text as a condition": sa.select(calls.c.id).where(sa.text("note_a_call() = 1")),
    "text as a column": sa.select(sa.literal_column("note_a_call()")),
    "text as a prefix": sa.select(calls.c.id).prefix_with("note_a_call(),"),
    "text as an operator": sa.select(sa.literal(1).op("+ note_a_call() +")(sa.literal(1))),
    "text as a hint": sa.select(calls.c.id).with_statement_hint("FOR UPDATE"),
}


WRITER = """
CREATE FUNCTION note_a_call() RETURNS int LANGUAGE sql AS
$$ INSERT INTO calls (id, number) VALUES (7, '7') RETURNING 1 $$
"""


@pytest.mark.parametrize("write", WRITES)
async def test_a_select_never_writes(database: PostgresDatabase, write: str):
    async with database.session() as session:
        for statement in (
            "CREATE SEQUENCE numbers",
            WRITER,
            "CREATE FUNCTION public.count(int) RETURNS int LANGUAGE sql AS 'SELECT note_a_call()'",
        ):
            await session.execute(sa.text(statement))
    await database.repository(Call).add(Call(1, "a"))
    for _ in range(2):  # also when it is known
        with pytest.raises(DatabaseError) as caught:
            await database.select(WRITES[write])
        assert caught.value.error_code == "25006"
    assert [call.id async for call in database.repository(Call).stream()] == [1]
    async with database.session() as session:
        assert await session.scalar(sa.text("SELECT is_called FROM numbers")) is False


async def test_a_select_without_its_tenant_is_refused_and_its_connection_kept(
    database: PostgresDatabase,
):
    await database.select(sa.select(calls))
    (slot,) = database._postgres.primary._idle
    with pytest.raises(TenantRequiredError):
        await database.select(sa.select(Agent))
    with pytest.raises(ValidationError):
        await database.select(sa.delete(Leg))
    async with asyncio.timeout(30):
        while database._postgres.primary._idle != [slot]:
            await asyncio.sleep(0.005)


async def test_a_select_is_run_once_more_when_its_connection_broke(postgres_url: str):
    async with FaultProxy(postgres_url) as proxy, connect(proxy.url(postgres_url)) as database:
        await database.repository(Call).add(Call(1, "a"))
        statement = sa.select(calls.c.id)
        for _ in range(2):
            proxy.cut()
            assert list(await database.select(statement)) == [(1,)]
        proxy.refuse()
        proxy.cut()
        with pytest.raises(ConnectionLost):
            await database.select(statement)


async def test_a_select_reads_from_replicas_but_what_may_write_from_the_primary(
    postgres_url: str,
):
    async with FaultProxy(postgres_url) as proxy:
        replica = proxy.url(postgres_url)
        async with connect(postgres_url, replicas=[replica]) as database:
            assert list(await database.select(sa.select(calls.c.id))) == []
            assert proxy.accepted == 1
            port = sa.select(sa.func.inet_server_port())
            await database.select(port)
            (pool,) = database._postgres.replicas.pools
            assert pool.stats().in_use == 0
            proxy.refuse()
            proxy.cut()
            assert list(await database.select(sa.select(calls.c.id))) == []


async def test_a_select_follows_migrations(database: PostgresDatabase):
    await database.repository(Call).add(Call(1, "7"))
    statement = sa.select(calls.c.id, calls.c.number)
    assert list(await database.select(statement)) == [(1, "7")]
    async with database.session() as session:
        await session.execute(sa.text("ALTER TABLE calls ALTER number TYPE varchar(9)"))
    assert list(await database.select(statement)) == [(1, "7")]
    async with database.session() as session:
        await session.execute(sa.text("ALTER TABLE calls ADD extra int, DROP note"))
    assert list(await database.select(statement)) == [(1, "7")]


async def test_a_select_ends_at_the_deadline_and_frees_its_connection(database: PostgresDatabase):
    await database.repository(Call).add(Call(1, "a"))
    async with database.session() as session:
        await session.execute(sa.text("LOCK TABLE calls"))
        loop = asyncio.get_running_loop()
        with bind(deadline=loop.time() + 0.2), pytest.raises(StatementTimeout):
            await database.select(sa.select(calls.c.id))
    async with asyncio.timeout(30):
        while database._postgres.pool().in_use or database._postgres.primary._in_doubt:
            await asyncio.sleep(0.005)
    assert list(await database.select(sa.select(calls.c.id))) == [(1,)]


async def test_cancelled_at_every_await_a_select_leaves_nothing_behind(database: PostgresDatabase):
    await database.repository(Call).add(Call(1, "a"))
    pool = database._postgres.primary

    async def check() -> None:
        async with asyncio.timeout(30):
            while pool._used or pool._in_doubt or pool._connecting:
                await asyncio.sleep(0.005)
        assert len(pool._idle) == 1  # kept: it can be used again
        changed = await database.repository(Call).update(1, {"note": "x"}, expected=ANY)
        assert changed.note == "x"

    async def read() -> None:
        assert list(await database.select(sa.select(calls.c.id))) == [(1,)]

    assert await cancel_at_every_await(read, check) >= 1


async def test_a_database_that_is_not_open_is_not_read(postgres_url: str):
    with pytest.raises(SessionStateError, match="async with"):
        await connect(postgres_url).select(sa.select(calls.c.id))


async def test_loaders_of_relations_and_expanded_lists_stay_limited(database: PostgresDatabase):
    await add_agents(database)
    for size in (0, 1, 3):
        names = ["ada", "bob", "gone"][:size]
        statement = sa.select(Agent.name).where(Agent.name.in_(names))
        rows = await database.select(statement, tenant=TENANT)
        assert len(rows) <= size
        assert list(await database.select(statement, tenant=OTHER)) == []
