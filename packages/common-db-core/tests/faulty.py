"""A real backend with a layer in between that fails on purpose."""

from collections import deque

from common.db.core import (
    DatabaseConfig,
    DatabaseManager,
    Driver,
    MemoryDatabase,
    Session,
    TransactionSession,
)


class FaultyDatabase(DatabaseManager):
    """An in-memory database whose next commits raise what ``commits`` says, before or after."""

    def __init__(self, config=None):
        self.commits = deque()
        self.pings = deque()
        self.closes = 0
        memory = MemoryDatabase(config or DatabaseConfig())
        super().__init__(_Driver(memory.driver, self), memory.config)


class _Driver(Driver):
    def __init__(self, inner, database):
        self._inner, self._database = inner, database
        self.system, self.capabilities = inner.system, inner.capabilities

    async def open(self):
        await self._inner.open()

    async def close(self):
        self._database.closes += 1
        await self._inner.close()

    def autocommit(self) -> Session:
        return self._inner.autocommit()

    async def begin(self, *, isolation, read_only):
        session = await self._inner.begin(isolation=isolation, read_only=read_only)
        session.commit = self._commit(session)
        return session

    def _commit(self, session: TransactionSession):
        commit = type(session).commit

        async def failing():
            fault = self._database.commits.popleft() if self._database.commits else None
            if fault is None:
                return await commit(session)
            error, takes_effect = fault
            await (commit(session) if takes_effect else session.rollback())
            raise error

        return failing

    async def ping(self):
        if self._database.pings:
            await self._database.pings.popleft()()
        await self._inner.ping()

    def pool(self):
        return self._inner.pool()
