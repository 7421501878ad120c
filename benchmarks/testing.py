"""How long a developer waits: for a server, for a fresh database, for an empty account."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import asyncpg

from benchmarks._harness import Bar, Group
from common.testing import NatsCluster, NatsServer, PostgresServer, ValkeyServer
from common.testing._databases import Databases
from common.testing._isolation import Accounts, Keyspaces
from common.testing._nats import USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TABLES = "".join(f"CREATE TABLE t{n} (id int PRIMARY KEY, a text, b jsonb);" for n in range(30))


def started_and_stopped(make):
    async def run(number):
        for _ in range(number):
            async with make():
                pass

    return run


def acquired_and_released(places, *arguments):
    def run(number):
        for _ in range(number):
            places.release(places.acquire(*arguments))

    return run


def seconds(contender, limit):
    return Bar(contender=contender, rate=1 / limit)


async def groups() -> AsyncIterator[Group]:
    """Start-up bars are for start *and* stop; the others for one test's set-up and tidying."""
    yield Group(
        name="start and stop a server",
        contenders={
            "PostgreSQL": started_and_stopped(PostgresServer),
            "Valkey": started_and_stopped(ValkeyServer),
            "NATS": started_and_stopped(NatsServer),
            "NATS, 3 nodes": started_and_stopped(NatsCluster),
        },
        number=1,
        rounds=7,
        bars=[
            seconds("PostgreSQL", 3.0),
            seconds("Valkey", 0.5),
            seconds("NATS", 0.5),
            seconds("NATS, 3 nodes", 5.0),
        ],
    )

    async with PostgresServer() as server:
        connection = await asyncpg.connect(server.url)
        databases = Databases(server.url, secrets.token_hex(8))

        async def by_hand(number):
            for _ in range(number):
                await connection.execute("CREATE DATABASE by_hand")
                await connection.execute("DROP DATABASE by_hand")

        try:
            yield Group(
                name="a fresh database",
                contenders={
                    "CREATE and DROP by asyncpg": by_hand,
                    "postgres_url": acquired_and_released(databases, None),
                    "postgres_url, 30 tables": acquired_and_released(databases, TABLES),
                },
                number=10,
                rounds=7,
                bars=[seconds("postgres_url", 0.03), seconds("postgres_url, 30 tables", 0.05)],
            )
        finally:
            databases.close()
            await connection.close()

    async with ValkeyServer() as valkey, NatsServer(accounts=256) as nats:
        accounts = Accounts(nats.url, nats.directory, USER)
        try:
            yield Group(
                name="an empty place",
                contenders={
                    "redis_url": acquired_and_released(Keyspaces(valkey.url)),
                    "nats_url": acquired_and_released(accounts),
                },
                number=10,
                rounds=7,
            )
        finally:
            accounts.close()
