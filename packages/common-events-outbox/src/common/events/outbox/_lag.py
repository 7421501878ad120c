"""How far a relay is behind."""

from dataclasses import dataclass
from typing import Final

from common.db.postgres import PostgresDatabase
from common.events.outbox._schema import Names
from common.events.outbox._sql import fetch

MAX_COUNTED: Final = 100_000

_LAG: Final = """\
SELECT (SELECT count(*) FROM (SELECT FROM {outbox} LIMIT {most}) AS r),
    coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at)::float8
        FROM {outbox} ORDER BY position LIMIT 1), 0.0),
    (SELECT count(*) FROM (SELECT FROM {outbox} WHERE next_attempt_at IS NOT NULL
        LIMIT {most}) AS r),
    (SELECT count(*) FROM (SELECT FROM {dead} LIMIT {most}) AS r)"""


@dataclass(frozen=True, slots=True)
class Lag:
    """What waits in an outbox; counts stop at 100,000.

    Attributes:
        rows: Messages not yet published.
        age: Seconds since the first of them was stored; 0.0 when there is none.
        failing: Those that wait for another attempt.
        dead: Dead letters.
    """

    rows: int
    age: float
    failing: int
    dead: int


async def measure(database: PostgresDatabase, names: Names) -> Lag:
    """Ask the database, by its clock."""
    rows = await fetch(
        database,
        "select",
        "outbox",
        names.sql(_LAG, most=MAX_COUNTED),
    )
    waiting, age, failing, dead = rows[0]
    return Lag(waiting, max(0.0, age), failing, dead)
