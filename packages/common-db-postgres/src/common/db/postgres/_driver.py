"""The backend: a pool, its sessions, and SQLAlchemy on the same connections."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.sql import Executable

from common.db.core import Capability, Driver, Isolation, PoolStats, Tenant
from common.db.postgres._bridge import Bridge
from common.db.postgres._config import PostgresConfig
from common.db.postgres._pool import Pool
from common.db.postgres._replicas import Replicas
from common.db.postgres._session import (
    AutocommitSession,
    PooledSession,
    PostgresTransaction,
    begin,
)
from common.db.postgres._statements import Layouts

SYSTEM: Final = "postgresql"


class PostgresDriver(Driver):
    """Connects `PostgresDatabase` with its servers.

    Args:
        config: Its configuration.
    """

    system = SYSTEM
    capabilities = frozenset(Capability)

    def __init__(self, config: PostgresConfig) -> None:
        assert config.url is not None  # noqa: S101 - the configuration requires it
        self.config = config
        self.primary = Pool(config, config.url)
        self.replicas = Replicas(
            [Pool(config, url) for url in config.replicas], lag_seconds=config.replica_lag_seconds
        )
        self.layouts = Layouts(config.schema_name)
        self.bridge = Bridge(named=not config.pgbouncer, schema=config.schema_name)
        session = PooledSession if config.pgbouncer else AutocommitSession
        self._session = session(
            self.layouts,
            self.primary,
            self.replicas,
            seconds=config.statement_timeout_seconds,
        )

    async def open(self) -> None:
        """Make the first connection, so that wrong settings show at once."""
        try:
            self.primary.release(await self.primary.acquire())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections."""
        for pool in (self.primary, *self.replicas.pools):
            await pool.close()

    def autocommit(self) -> AutocommitSession:
        """Return the session whose calls each take effect by themselves."""
        return self._session

    async def begin(self, *, isolation: Isolation | None, read_only: bool) -> PostgresTransaction:
        """Start a transaction on the primary."""
        session = await begin(
            self.primary,
            self.layouts,
            isolation=isolation,
            read_only=read_only,
            seconds=self.config.statement_timeout_seconds,
            local=self.config.pgbouncer,
        )
        session.bridge = self.bridge
        if self.replicas and not read_only:
            recent = self.replicas.track()
            session.on_commit = lambda: self.replicas.wrote(recent)
        return session

    async def select(
        self, statement: Executable, tenant: Tenant
    ) -> Sequence[Row[*tuple[Any, ...]]] | None:
        """Run a SELECT of SQLAlchemy by itself; ``None`` when it needs a transaction."""
        if self.config.pgbouncer:
            return None
        return await self._session.run(
            lambda connection, seconds: self.bridge.select(connection, seconds, statement, tenant)
        )

    async def ping(self) -> None:
        """Make a round trip to the primary."""
        await self.primary.ping()

    def pool(self) -> PoolStats:
        """Return figures of the primary's pool."""
        return self.primary.stats()
