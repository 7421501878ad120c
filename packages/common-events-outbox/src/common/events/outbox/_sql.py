"""Running one statement, in a unit of work or by itself on the primary."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from common.db.core import Session, UnitOfWork
from common.db.postgres import PostgresConfig, PostgresDatabase, PostgresTransaction
from common.errors import ValidationError
from common.events.outbox._schema import Names, names_in

T = TypeVar("T")

Record: TypeAlias = Any
"""An `asyncpg.Record`; asyncpg has no types of its own."""


_IDLE_LEAST: Final = 2.0
_IDLE_MOST: Final = 60.0


class _Runs(Protocol):
    async def run(
        self, call: Callable[[Any, float | None], Awaitable[T]], *, writes: bool = False
    ) -> T: ...


async def fetch(
    gate: UnitOfWork | PostgresDatabase, name: str, table: str, sql: str, *values: object
) -> Sequence[Record]:
    """Run a statement in one round trip, and return its rows.

    Args:
        gate: Where; a database runs it by itself, and on the primary even if it only reads.
        name: Of the operation that is reported.
        table: Likewise.
        sql: The statement.
        *values: Its parameters.
    """

    async def run(session: Session) -> Sequence[Record]:
        rows: Sequence[Record] = await cast("_Runs", session).run(
            lambda connection, seconds: connection.fetch(sql, *values, timeout=seconds), writes=True
        )
        return rows

    return await gate.call(name, table, run, write=True)


async def execute(database: PostgresDatabase, name: str, table: str, sql: str) -> None:
    """Run a statement that stands outside transactions, such as VACUUM."""

    async def run(session: Session) -> None:
        await cast("_Runs", session).run(
            lambda connection, seconds: connection.execute(sql, timeout=seconds), writes=True
        )

    await database.call(name, table, run, write=True)


def idle_limit(database: PostgresDatabase, *, lease: float) -> str:
    """Return how long a relay's transaction may stand still, as PostgreSQL takes it.

    A relay that is paused in its midst, or whose host vanishes, must not keep rows locked for
    much longer than its lease lasts: the others would stand before them.

    Args:
        database: Its own limit holds, if that is shorter.
        lease: Seconds of a lease.
    """
    most = getattr(database.config, "idle_transaction_seconds", _IDLE_MOST)
    return str(int(1_000 * min(most, max(_IDLE_LEAST, lease / 6))))


def names_of(gate: UnitOfWork | PostgresDatabase) -> Names:
    """Return the names of the tables, as a database's configuration has their schema.

    Raises:
        ValidationError: It is no database or unit of work of PostgreSQL.
    """
    config = gate.config
    if not isinstance(config, PostgresConfig) or (
        isinstance(gate, UnitOfWork) and not isinstance(gate.session, PostgresTransaction)
    ):
        raise ValidationError("the outbox lives in PostgreSQL: pass a PostgresDatabase or its tx")
    return names_in(config.schema_name)
