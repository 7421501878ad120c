"""Contract: random queries give what the in-memory backend gives."""

# ruff: noqa: S101 - tests, which say by their name what they check

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from common.db.core import (
    Capability,
    MemoryDatabase,
    Query,
    Repository,
    UnsupportedQuery,
    entity_info,
)
from common.db.core.testing._base import ContractBase, collect, ids
from common.db.core.testing._entities import Sample
from common.db.core.testing._paging import walk
from common.db.core.testing._strategies import queries, sample_rows


async def assert_agree(
    expected: Repository[Any], actual: Repository[Any], query: Query, *, limit: int = 7
) -> bool:
    """Compare two repositories that hold the same entities, over one query.

    Args:
        expected: The one to trust.
        actual: The one to judge.
        query: What to ask both.
        limit: Size of the pages to walk.

    Returns:
        ``False`` when ``actual`` said that it does not support the query.

    Raises:
        AssertionError: They differ in entities, order, pages, count or existence.
    """
    try:
        found = ids(await actual.find(query, limit=200))
    except UnsupportedQuery:
        return False
    wanted = ids(await expected.find(query, limit=200))
    assert found == wanted
    assert ids(await walk(actual, query, limit)) == wanted
    assert await actual.count(query) == len(wanted)
    assert await actual.exists(query) is bool(wanted)
    assert ids(await collect(actual.stream(query, batch=limit))) == wanted
    return True


class DifferentialContract(ContractBase):
    """Random queries.

    Attributes:
        examples: How many random queries are compared.
    """

    examples: ClassVar[int] = 100

    @pytest.fixture
    async def memory(self) -> AsyncIterator[Repository[Sample]]:
        """Samples in memory."""
        async with MemoryDatabase() as database:
            yield database.repository(Sample)

    async def test_random_queries_agree_with_memory(
        self, samples: Repository[Sample], memory: Repository[Sample]
    ) -> None:
        rows = sample_rows()
        await samples.add_many(rows)
        await memory.add_many(rows)
        compared = 0
        for query, limit in random_queries(self.examples):
            try:
                compared += await assert_agree(memory, samples, query, limit=limit)
            except AssertionError as error:
                error.add_note(f"for {query!r}, in pages of {limit}")
                raise
        if self.capabilities == frozenset(Capability):
            assert compared == self.examples


def random_queries(count: int) -> list[tuple[Query, int]]:
    """Return random queries over `Sample`, each with a size of pages."""
    drawn: list[tuple[Query, int]] = []
    pairs = st.tuples(queries(entity_info(Sample)), st.integers(1, 30))
    relaxed = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
    )

    @relaxed
    @given(pairs)
    def draw(pair: tuple[Query, int]) -> None:
        drawn.append(pair)

    draw()
    return drawn[:count]
