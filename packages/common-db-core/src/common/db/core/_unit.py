"""The unit of work: one transaction, and the repositories within it."""

from typing import TypeVar

from common.context import shielded
from common.db.core._config import DatabaseConfig
from common.db.core._cursor import CursorCodec
from common.db.core._declare import entity_info
from common.db.core._errors import SessionStateError
from common.db.core._gate import Gate, closed, report
from common.db.core._repository import Repository
from common.db.core._session import Capability, Driver, Session, TransactionSession
from common.db.core._tenant import ALL_TENANTS, Tenant, bind

E = TypeVar("E")


class UnitOfWork(Gate):
    """Repositories whose writes take effect together, or not at all.

    It belongs to one task at a time. After an error of the database it can only be left: even
    when the error was caught, leaving it raises `SessionStateError`, since nothing was stored,
    with the error as its ``__cause__``.
    """

    def __init__(
        self,
        driver: Driver,
        config: DatabaseConfig,
        codec: CursorCodec,
        session: TransactionSession,
        *,
        read_only: bool = False,
    ) -> None:
        super().__init__(driver, config, codec)
        self._session = session
        self._read_only = read_only
        self._state = "open"
        self._error: BaseException | None = None

    def repository(self, entity: type[E], *, tenant: Tenant = None) -> Repository[E]:
        """Return the repository of an entity within this transaction.

        Args:
            entity: The class.
            tenant: Whose rows; see `DatabaseManager.repository`.
        """
        return make_repository(self, entity, tenant)

    @property
    def session(self) -> TransactionSession:
        """The backend's session, for what the contract does not cover."""
        self._usable()
        return self._session

    def enter(self, *, write: bool) -> Session:
        """Claim the session for one call."""
        self._usable()
        if write and self._read_only:
            raise SessionStateError(
                "the unit of work is read-only: open it without read_only", state="read only"
            )
        self._state = "busy"
        return self._session

    def leave(self, error: BaseException | None) -> None:
        """Give the session back after a call."""
        if self._state == "busy":
            self._state = "open"
            if error is not None:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Let the transaction end in a rollback."""
        if self._state == "open":
            self._state, self._error = "failed", error

    async def end(self, *, commit: bool) -> None:
        """Commit or roll back, whatever happens to the task meanwhile.

        Raises:
            SessionStateError: It was to be committed, and had failed.
        """
        state, self._state = self._state, "closed"
        error, self._error = self._error, None
        if commit and state == "open":
            await shielded(report(self.driver, "commit", self._session.commit()))
            return
        await shielded(report(self.driver, "rollback", self._session.rollback()))
        if commit:
            why = "had failed" if state == "failed" else "was still in use"
            raise SessionStateError(
                f"the unit of work {why}, so nothing was stored: let its errors out of the "
                "`async with`, and await all it does",
                state=state,
            ) from error

    def _usable(self) -> None:
        if self._state == "closed":
            raise closed("unit of work", "closed")
        if self._state == "busy":
            raise SessionStateError(
                "another task is using the unit of work: open one for each task", state="busy"
            )
        if self._state == "failed":
            raise SessionStateError(
                "an earlier error undid the unit of work: leave it, and start again",
                state="failed",
            ) from self._error


def make_repository(gate: Gate, entity: type[E], tenant: Tenant) -> Repository[E]:
    """Return a repository that works through ``gate``."""
    info = entity_info(entity)
    if tenant is ALL_TENANTS and info.tenant:
        gate.require(Capability.ALL_TENANTS, "repositories over all tenants")
    scope = bind(info, tenant, max_bytes=gate.config.max_value_bytes)
    return Repository(gate, info, scope)
