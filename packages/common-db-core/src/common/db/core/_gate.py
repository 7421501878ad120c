"""The one way from a repository to a session: state, deadline and reporting."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sized
from typing import TypeVar

from common.context import check_deadline, operation
from common.db.core._config import DatabaseConfig
from common.db.core._cursor import CursorCodec
from common.db.core._errors import SessionStateError, UnsupportedOperation, UnsupportedQuery
from common.db.core._session import Capability, Driver, Session

T = TypeVar("T")


class Gate(ABC):
    """Lets calls through to a session, and reports each as an operation of kind ``db``.

    Args:
        driver: The backend.
        config: Its configuration.
        codec: Writes and reads cursors.
    """

    def __init__(self, driver: Driver, config: DatabaseConfig, codec: CursorCodec) -> None:
        self.driver = driver
        self.config = config
        self.codec = codec

    @abstractmethod
    def enter(self, *, write: bool) -> Session:
        """Return the session; raise `SessionStateError` when it cannot be used."""

    @abstractmethod
    def leave(self, error: BaseException | None) -> None:
        """Take note that a call ended, and of the error that the session did not survive."""

    def fail(self, error: BaseException) -> None:  # noqa: B027 - only units of work undo anything
        """Take note of a conflict, which undoes the unit of work as a database's error does."""

    def require(self, capability: Capability, operation_name: str) -> None:
        """Raise `UnsupportedOperation` unless the backend has the capability."""
        if capability not in self.driver.capabilities:
            raise UnsupportedOperation(
                f"{self.driver.system} has no {operation_name}",
                operation=operation_name,
                backend=self.driver.system,
            )

    async def call(
        self,
        name: str,
        table: str,
        primitive: Callable[[Session], Awaitable[T]],
        *,
        write: bool = False,
        batch_size: int | None = None,
    ) -> T:
        """Run one primitive call of the session.

        Raises:
            SessionStateError: The session cannot be used now.
            DeadlineExceeded: No time is left; nothing was sent.
        """
        check_deadline()
        session = self.enter(write=write)
        attributes: dict[str, object] = {
            "db.system.name": self.driver.system,
            "db.operation.name": name,
            "db.collection.name": table,
        }
        if batch_size is not None:
            attributes["db.operation.batch.size"] = batch_size
        try:
            with operation("db", f"{name} {table}", attributes) as reported:
                result = await primitive(session)
                if reported.recording and not write and isinstance(result, Sized):
                    reported.set({"db.response.returned_rows": len(result)})
        except BaseException as error:
            harmless = isinstance(error, UnsupportedQuery | UnsupportedOperation)
            self.leave(None if harmless else error)
            raise
        self.leave(None)
        return result


async def report(driver: Driver, name: str, awaitable: Awaitable[T]) -> T:
    """Await a command that belongs to no table, as an operation of kind ``db``."""
    attributes: Mapping[str, object] = {
        "db.system.name": driver.system,
        "db.operation.name": name,
    }
    with operation("db", name, attributes):
        return await awaitable


def closed(what: str, state: str) -> SessionStateError:
    """Return the error for using what is not open."""
    hint = "use it inside `async with`" if state == "not open" else "it cannot be used any more"
    return SessionStateError(f"the {what} is {state}: {hint}", state=state)
