"""Repositories on PostgreSQL against raw asyncpg, SQLAlchemy's ORM and advanced-alchemy."""

# The peers are in the bench group, which `make check` does without.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import asyncio
import dataclasses
import gc
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from pydantic import BaseModel
from sqlalchemy import DateTime, Double, String, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks._harness import Bar, Group
from common.db.core import F, Query, entity
from common.db.postgres import PostgresConfig, PostgresDatabase, new_metadata, table_for
from common.testing import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 15
ROWS = 100_000
STREAMED = 1_000_000
MOST_MEMORY = 50 << 20


@entity(table="calls", version="version")
@dataclasses.dataclass
class Call:
    """What is stored, as a dataclass."""

    id: UUID
    merchant: str
    number: str
    status: str
    seconds: int
    cost: float
    started_at: datetime
    note: str | None = None
    version: int = 0


@entity(table="calls", version="version")
class CallModel(BaseModel):
    """The same, as a pydantic model."""

    id: UUID
    merchant: str
    number: str
    status: str
    seconds: int
    cost: float
    started_at: datetime
    note: str | None = None
    version: int = 0


@entity(
    table="stamped",
    version="version",
    deleted="deleted_at",
    created="created_at",
    updated="updated_at",
    tenant="merchant",
)
@dataclasses.dataclass
class Stamped(Call):
    """With soft delete, tenant and times."""

    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None


class Base(DeclarativeBase):
    """Of the mapped class."""


class CallRecord(Base):
    """The same, for SQLAlchemy's ORM and advanced-alchemy."""

    __tablename__ = "calls"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    merchant: Mapped[str] = mapped_column(String)
    number: Mapped[str] = mapped_column(String)
    status: Mapped[str] = mapped_column(String)
    seconds: Mapped[int]
    cost: Mapped[float] = mapped_column(Double)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    note: Mapped[str | None]
    version: Mapped[int]


class AlchemyRepository(SQLAlchemyAsyncRepository[CallRecord]):
    """Advanced-alchemy's repository."""

    model_type = CallRecord


COLUMNS = tuple(each.name for each in dataclasses.fields(Call))
TYPES = (
    "uuid[], text[], text[], text[], bigint[], double precision[], timestamptz[], text[], bigint[]"
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM calls"
UPSERT = (
    f"INSERT INTO calls AS t ({', '.join(COLUMNS)}) SELECT * FROM unnest("
    + ", ".join(f"${place}::{type_}" for place, type_ in enumerate(TYPES.split(", "), 1))
    + ") ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in COLUMNS[1:-1])
    + ", version = t.version + 1"
)


def calls(number, cls: Any = Call, **more):
    return [
        cls(
            id=uuid4(),
            merchant="m1",
            number=f"+49151{each:07}",
            status="open",
            seconds=each,
            cost=each / 7,
            started_at=NOW,
            note="called back" if each % 2 else None,
            version=1,
            **more,
        )
        for each in range(number)
    ]


def rows_of(entities):
    """Return the rows as one would write it by hand for this table, and no other."""
    return [
        (c.id, c.merchant, c.number, c.status, c.seconds, c.cost, c.started_at, c.note, 1)
        for c in entities
    ]


def bars(limit, against):
    yield Bar(contender="common", against=against, ratio=limit)
    yield Bar(contender="common", against="advanced-alchemy", ratio=0.5)


def repeated(work):
    async def run(number):
        for _ in range(number):
            await work()

    return run


async def groups() -> AsyncIterator[Group]:
    """One server, one table; every contender has a pool of its own."""
    metadata = new_metadata()
    table_for(Call, metadata)
    table_for(Stamped, metadata)
    async with PostgresServer(settings={"max_wal_size": "4GB"}) as server:
        url = server.url
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        config = PostgresConfig.model_validate({"url": url})
        pool = asyncpg.create_pool(url, min_size=1, max_size=20)
        async with PostgresDatabase(config) as database, pool:
            sessions = async_sessionmaker(engine, expire_on_commit=False)
            for group in (
                reading(database, pool, sessions),
                listing(database, pool, sessions),
                inserting(database, pool, sessions),
                upserting(database, pool, sessions),
            ):
                yield await group
            yield await streaming(url, database, pool)
        await engine.dispose()


async def reading(database, pool, sessions):
    stored = calls(10_000)
    repository = database.repository(Call)
    await repository.add_many(stored)
    await pool.execute("ANALYZE calls")
    key = stored[5_000].id
    sql = f"{SELECT} WHERE id = $1"
    full = database.repository(Stamped, tenant="m1")
    values: dict[str, Any] = dataclasses.asdict(stored[0])
    await full.add(Stamped(**{**values, "id": key}))

    async def asyncpg_pool():
        return Call(*await pool.fetchrow(sql, key))

    async def core():
        return await repository.get(key)

    async def orm():
        async with sessions() as session:
            return await session.get(CallRecord, key)

    async def alchemy():
        async with sessions() as session:
            return await AlchemyRepository(session=session).get(key)

    async def stamped():
        return await full.get(key)

    return Group(
        name="get by id",
        contenders={
            "asyncpg pool": repeated(asyncpg_pool),
            "common": repeated(core),
            "common, tenant and soft delete": repeated(stamped),
            "SQLAlchemy ORM": repeated(orm),
            "advanced-alchemy": repeated(alchemy),
        },
        number=200,
        rounds=ROUNDS,
        bars=[*bars(1.3, "asyncpg pool")],
    )


async def listing(database, pool, sessions):
    repository, models = database.repository(Call), database.repository(CallModel)
    query = Query(F.merchant == "m1", order_by=F.id)
    sql = f"{SELECT} WHERE merchant = $1 ORDER BY id LIMIT 100"

    async def raw():
        return [Call(*row) for row in await pool.fetch(sql, "m1")]

    async def raw_pydantic():
        return [CallModel(**row) for row in await pool.fetch(sql, "m1")]

    async def core():
        return await repository.find(query, limit=100)

    async def core_list():
        return await repository.list({"merchant": "m1"}, limit=100)

    async def pydantic():
        return await models.find(query, limit=100)

    async def orm():
        statement = (
            select(CallRecord).where(CallRecord.merchant == "m1").order_by(CallRecord.id).limit(100)
        )
        async with sessions() as session:
            return (await session.execute(statement)).scalars().all()

    async def alchemy():
        async with sessions() as session:
            return await AlchemyRepository(session=session).list(
                LimitOffset(100, 0), OrderBy("id"), merchant="m1"
            )

    return Group(
        name="list 100",
        contenders={
            "asyncpg, dataclasses": repeated(raw),
            "asyncpg, pydantic": repeated(raw_pydantic),
            "common": repeated(core),
            "common, list()": repeated(core_list),
            "common, pydantic": repeated(pydantic),
            "SQLAlchemy ORM": repeated(orm),
            "advanced-alchemy": repeated(alchemy),
        },
        number=50,
        rounds=ROUNDS,
        bars=[
            *bars(1.5, "asyncpg, dataclasses"),
            Bar(contender="common, pydantic", against="asyncpg, dataclasses", ratio=2),
        ],
    )


async def inserting(database, pool, sessions):
    rounds = 13
    repository = database.repository(Call)
    # Made before the clock runs.
    plain = [calls(10_000) for _ in range(2 * rounds + 2)]
    mapped = [calls(10_000, CallRecord) for _ in range(2 * rounds + 2)]
    gc.freeze()  # no service holds these; the collector would look at them all the time

    async def copy(_):
        records = rows_of(plain.pop())
        async with pool.acquire() as connection:
            await connection.copy_records_to_table("calls", columns=COLUMNS, records=records)

    async def core(_):
        await repository.add_many(plain.pop())

    async def orm(_):
        async with sessions() as session:
            session.add_all(mapped.pop())
            await session.commit()

    async def alchemy(_):
        async with sessions() as session:
            await AlchemyRepository(session=session).add_many(mapped.pop())
            await session.commit()

    return Group(
        name="add 10,000",
        contenders={
            "COPY": copy,
            "common": core,
            "SQLAlchemy ORM": orm,
            "advanced-alchemy": alchemy,
        },
        number=1,
        rounds=rounds,
        bars=[*bars(1.2, "COPY")],
    )


async def upserting(database, pool, sessions):
    rounds = 15
    repository = database.repository(Call)
    stored = calls(2_000)
    await repository.add_many(stored)
    await pool.execute("VACUUM ANALYZE calls")

    async def unnest(_):
        columns = zip(*rows_of(stored), strict=True)
        await pool.execute(UPSERT, *columns)

    async def core(_):
        await repository.upsert_many(stored)

    def instances():
        return [CallRecord(**dataclasses.asdict(each)) for each in stored]

    prepared = [instances() for _ in range(2 * rounds + 2)]
    gc.freeze()

    async def orm(_):
        statement = insert(CallRecord)
        statement = statement.on_conflict_do_update(
            index_elements=["id"],
            set_={
                **{name: statement.excluded[name] for name in COLUMNS[1:-1]},
                "version": CallRecord.version + 1,
            },
        )
        async with sessions() as session:
            await session.execute(statement, [dataclasses.asdict(each) for each in stored])
            await session.commit()

    async def alchemy(_):
        async with sessions() as session:
            await AlchemyRepository(session=session).upsert_many(prepared.pop())
            await session.commit()

    return Group(
        name="upsert 2,000",
        contenders={
            "unnest": unnest,
            "common": core,
            "SQLAlchemy ORM": orm,
            "advanced-alchemy": alchemy,
        },
        number=1,
        rounds=rounds,
        bars=[*bars(1.3, "unnest")],
    )


async def streaming(url, database, pool):
    """Stream a million rows; more memory than promised ends the whole measurement."""
    await pool.execute("TRUNCATE calls")
    await pool.execute(
        "INSERT INTO calls SELECT gen_random_uuid(), 'm1', '+49151' || n, 'open', n, n / 7.0, "
        f"now(), 'called back', 1 FROM generate_series(1, {STREAMED}) AS n"
    )
    await asyncio.to_thread(check_memory, url)
    repository = database.repository(Call)

    async def raw(number):
        count = 0
        async with pool.acquire() as connection, connection.transaction():
            async for row in connection.cursor(f"{SELECT} ORDER BY id", prefetch=1_000):
                Call(*row)
                count += 1
        assert count == number

    async def core(number):
        count = 0
        async for _ in repository.stream(batch=1_000):
            count += 1
        assert count == number

    return Group(
        name="stream 1,000,000",
        contenders={"asyncpg cursor": raw, "common": core},
        number=STREAMED,
        rounds=3,
        warmup=0,
    )


def check_memory(url):
    """Stream in a new process, whose memory nothing else has used yet."""
    command = [sys.executable, "-m", "benchmarks.db_postgres", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    print(f"stream of {STREAMED:,} rows: {grown / (1 << 20):.1f} MB above the start")
    if grown > MOST_MEMORY:
        raise SystemExit(f"stream() took {grown >> 20} MB, at most {MOST_MEMORY >> 20} promised")


async def streamed_memory(url):
    """Return by how many bytes this process grew while it streamed."""
    async with PostgresDatabase(PostgresConfig.model_validate({"url": url})) as database:
        repository = database.repository(Call)
        await repository.find(limit=1)
        start, most, count = memory(), 0, 0
        async for _ in repository.stream(batch=1_000):
            count += 1
            if count % 10_000 == 0:
                most = max(most, memory())
    assert count == STREAMED
    return most - start


def memory():
    """Resident bytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    print(asyncio.run(streamed_memory(sys.argv[1])))
