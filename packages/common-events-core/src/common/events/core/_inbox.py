"""The port by which an effect and the mark "done" commit together."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class InboxTransaction(Generic[T_co]):
    """An open transaction of an inbox.

    Args:
        duplicate: Whether a transaction of the same consumer and message committed already. The
            handler is then not called.
        transaction: What the handler works with: `EventContext.transaction` returns it.
    """

    duplicate: bool
    transaction: T_co


class Inbox(ABC, Generic[T]):
    """Remembers which messages a consumer has handled.

    A broker delivers at least once. With an inbox, the effects a handler has through the
    transaction happen once, however often its message comes.
    """

    @abstractmethod
    def transaction(
        self, consumer: str, message_id: str
    ) -> AbstractAsyncContextManager[InboxTransaction[T]]:
        """Open a transaction that marks the message as handled when it commits.

        Leaving the block normally commits the mark and the effects together, or nothing.
        Leaving it with an exception (cancellation, too) rolls both back: the message was not
        handled. Of two transactions for one message that are open at once, at most one
        commits; the other waits for it and then says ``duplicate``, or fails.

        Args:
            consumer: Durable name of the subscription; each has marks of its own.
            message_id: Id of the message.
        """
