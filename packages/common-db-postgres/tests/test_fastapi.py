"""FastAPI dependencies: one transaction a request, committed before the answer."""

import subprocess
import sys
from typing import Annotated

import pytest
import sqlalchemy as sa
from postgres_entities import Call, config_of, connect

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from fastapi import Depends, FastAPI

from common.db.core import Health, Repository
from common.db.postgres import PostgresDatabase
from common.db.postgres.fastapi import (
    DatabaseDep,
    DBSessionDep,
    TransactionDep,
    database_lifespan,
    get_database_health,
    repository_of,
    set_database,
)
from common.errors import InternalError


def application() -> FastAPI:
    app = FastAPI()

    @app.post("/calls/{key}")
    async def add(key: int, tx: TransactionDep, session: DBSessionDep) -> int:
        await tx.repository(Call).add(Call(key, f"n{key}"))
        return int(await session.scalar(sa.text("SELECT count(*) FROM calls")) or 0)

    @app.post("/fails/{key}")
    async def fails(key: int, calls: Annotated[Repository[Call], repository_of(Call)]) -> None:
        await calls.add(Call(key, f"n{key}"))
        raise ZeroDivisionError

    @app.post("/late/{key}")
    async def late(key: int, tx: TransactionDep, session: DBSessionDep) -> str:
        await tx.repository(Call).add(Call(key, f"n{key}"))
        await session.execute(sa.text("INSERT INTO legs (id, agent_id) VALUES (1, :id)"),
                              {"id": "0192f5a0-7c1e-7000-8000-000000000001"})  # fmt: skip
        return "stored"

    @app.get("/count")
    async def count(database: DatabaseDep) -> int:
        return await database.repository(Call).count()

    @app.get("/health")
    async def health(found: Annotated[Health, Depends(get_database_health)]) -> Health:
        return found

    return app


def client(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_request_is_one_transaction(database: PostgresDatabase):
    app = application()
    set_database(app, database)
    async with client(app) as http:
        assert (await http.post("/calls/1")).json() == 1
        assert (await http.post("/fails/2")).status_code == 500
        assert (await http.post("/calls/1")).status_code == 500
        assert (await http.get("/count")).json() == 1
        health = (await http.get("/health")).json()
    assert health["ok"] is True
    assert health["pool"]["in_use"] == 0


async def test_a_commit_that_fails_is_not_answered_with_success(database: PostgresDatabase):
    async with database.session() as session:
        await session.execute(
            sa.text(
                "ALTER TABLE legs ALTER CONSTRAINT fk_legs_agent_id_agents "
                "DEFERRABLE INITIALLY DEFERRED"
            )
        )
    app = application()
    set_database(app, database)
    async with client(app) as http:
        assert (await http.post("/late/1")).status_code == 500
        assert (await http.get("/count")).json() == 0


async def test_the_lifespan_opens_and_closes(postgres_url: str):
    database = connect(postgres_url)
    app = application()
    async with database_lifespan(database)(app), client(app) as http:
        assert (await http.get("/count")).json() == 0
    assert not (await database.health()).ok


async def test_without_a_database_it_says_what_to_do():
    app = application()

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with pytest.raises(InternalError) as caught:
            await http.get("/count")
    assert "database_lifespan" in str(caught.value.internal_message)


def test_two_applications_have_two_databases():
    first, second = FastAPI(), FastAPI()
    databases = [PostgresDatabase(config_of(f"postgresql://a:b@{host}/d")) for host in ("x", "y")]
    set_database(first, databases[0])
    set_database(second, databases[1])
    assert first.state.common_database is not second.state.common_database


def test_the_missing_extra_is_named():
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "try:\n    import common.db.postgres.fastapi\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "common-db-postgres[fastapi]" in done.stdout
