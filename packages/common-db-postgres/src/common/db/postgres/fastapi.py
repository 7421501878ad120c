"""FastAPI dependencies: the database is kept on the application, not in a global.

Example:
    >>> from fastapi import FastAPI
    >>> from common.db.postgres import PostgresConfig, PostgresDatabase
    >>> database = PostgresDatabase(PostgresConfig(url="postgresql://u:p@localhost/calls"))
    >>> app = FastAPI(lifespan=database_lifespan(database))
    >>> @app.get("/count")
    ... async def count(tx: TransactionDep) -> int:
    ...     return 0
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

from common.db.core import Health, Repository, Tenant, UnitOfWork
from common.db.postgres._database import PostgresDatabase, orm_session
from common.errors import InternalError

try:
    from fastapi import Depends, FastAPI
    from fastapi.requests import HTTPConnection
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "common.db.postgres.fastapi needs FastAPI: pip install common-db-postgres[fastapi]",
        name=missing.name,
    ) from missing

from sqlalchemy.ext.asyncio import AsyncSession

__all__ = [
    # Set-up
    "database_lifespan",
    "set_database",
    # Dependencies
    "DBSessionDep",
    "DatabaseDep",
    "TransactionDep",
    "get_database",
    "get_database_health",
    "get_session",
    "get_transaction",
    "repository_of",
]

_E = TypeVar("_E")

_STATE: Final = "common_database"


def set_database(app: FastAPI, database: PostgresDatabase) -> None:
    """Let the dependencies of ``app`` use ``database``, which its owner opens and closes."""
    setattr(app.state, _STATE, database)


def database_lifespan(
    database: PostgresDatabase,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return a lifespan that opens the database at start-up and closes it at shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with database:
            set_database(app, database)
            yield

    return lifespan


def get_database(connection: HTTPConnection) -> PostgresDatabase:
    """Return the application's database."""
    database = getattr(connection.app.state, _STATE, None)
    if not isinstance(database, PostgresDatabase):
        raise InternalError(
            "the application has no database: FastAPI(lifespan=database_lifespan(database)), or "
            "set_database(app, database)"
        )
    return database


DatabaseDep = Annotated[PostgresDatabase, Depends(get_database)]
"""The application's `PostgresDatabase`."""


async def get_transaction(database: DatabaseDep) -> AsyncGenerator[UnitOfWork, None]:
    """Open a unit of work for the request; it commits before the response is sent."""
    async with database.transaction() as unit:
        yield unit


# scope="function": otherwise FastAPI would commit after it has sent the response, and a commit
# that fails would have been answered with success.
TransactionDep = Annotated[UnitOfWork, Depends(get_transaction, scope="function")]
"""A unit of work: committed when the handler returns, rolled back when it raises."""


async def get_session(unit: TransactionDep) -> AsyncSession:
    """Return SQLAlchemy's session on the request's unit of work."""
    return await orm_session(unit)


DBSessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
"""SQLAlchemy's session, on the same transaction as `TransactionDep`."""


def repository_of(entity: type[_E], *, tenant: Tenant = None) -> Any:
    """Return a dependency on an entity's repository within the request's unit of work.

    Args:
        entity: The class.
        tenant: Whose rows; by default the tenant of the context.

    Example:
        >>> from common.db.core.testing import Sample
        >>> SampleRepository = Annotated[Repository[Sample], repository_of(Sample)]
    """

    def get_repository(unit: TransactionDep) -> Repository[_E]:
        return unit.repository(entity, tenant=tenant)

    return Depends(get_repository, scope="function")


async def get_database_health(database: DatabaseDep) -> Health:
    """Return how the database is: whether it answers, its latency, and figures of the pool."""
    return await database.health()
