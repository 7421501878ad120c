"""The contract suite: a backend subclasses `RepositoryContract` and runs it with pytest.

```python
class TestPostgres(RepositoryContract):
    capabilities = frozenset(Capability)

    @pytest.fixture
    async def database(self, postgres_url):
        async with PostgresDatabase(PostgresConfig(url=postgres_url)) as database:
            ...  # make tables for `contract_entities`
            yield database
```

It needs the extra ``common-db-core[testing]``, and pytest-asyncio in its mode ``auto``. Call
``pytest.register_assert_rewrite("common.db.core.testing")`` in ``conftest.py`` to see values in
failed assertions.
"""

try:
    from common.db.core.testing._contract import RepositoryContract
    from common.db.core.testing._differential import assert_agree
    from common.db.core.testing._entities import Item, Pair, Sample, Status, contract_entities
    from common.db.core.testing._strategies import conditions, orders, queries, sample_rows, values
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"common.db.core.testing needs {missing.name}: pip install common-db-core[testing]",
        name=missing.name,
    ) from missing

__all__ = [
    # The suite and its entities
    "Item",
    "Pair",
    "RepositoryContract",
    "Sample",
    "Status",
    "contract_entities",
    # Tools for further tests
    "assert_agree",
    "conditions",
    "orders",
    "queries",
    "sample_rows",
    "values",
]
