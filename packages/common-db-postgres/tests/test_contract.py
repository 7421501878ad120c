"""The contract suite of common-db-core, on a real server."""

import pytest

from common.db.core import DatabaseManager
from common.db.core.testing import RepositoryContract
from common.db.postgres import PostgresDatabase


class TestPostgres(RepositoryContract):
    @pytest.fixture
    async def database(self, database: PostgresDatabase) -> DatabaseManager:
        return database
