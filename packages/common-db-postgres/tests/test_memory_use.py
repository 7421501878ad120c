"""A stream holds a batch, not the table."""

import resource
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres_entities import Call

from common.db.postgres import PostgresDatabase

ROWS = 200_000
LIMIT = 50 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
async def test_streaming_many_rows_takes_little_memory(database: PostgresDatabase):
    async with database.session() as session:
        await session.execute(
            sa.text(
                "INSERT INTO calls (id, number, note) "
                "SELECT n, 'n' || n, repeat('x', 500) FROM generate_series(1, :rows) n"
            ),
            {"rows": ROWS},
        )
    start = resident()
    count = most = 0
    async for _ in database.repository(Call).stream(batch=1_000):
        count += 1
        if count % 10_000 == 0:
            most = max(most, resident())
    assert count == ROWS
    assert most - start <= LIMIT  # all rows at once take some 200 MB
