"""What became of what was published."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import AppError
from common.events.core._errors import PublishError
from common.events.core._transport import Receipt


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has stored the message.

    Attributes:
        receipt: Its acknowledgement.
    """

    receipt: Receipt

    @property
    def ok(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True, slots=True)
class Failed:
    """The message was not published, or nobody knows whether it was.

    After a `PublishTimeout` or another `PublishError` the broker may have stored it; publishing
    again under the same message id is safe within the stream's duplicate window.

    Attributes:
        error: Why.
        message_id: Id under which it was to be published.
        type: The message's type.
    """

    error: AppError
    message_id: str
    type: str

    @property
    def ok(self) -> bool:
        """False."""
        return False


@dataclass(frozen=True, slots=True)
class PublishReport:
    """One result for each message of a batch, in their order."""

    results: Sequence[Published | Failed]

    @property
    def published(self) -> list[Published]:
        """Those the broker has stored."""
        return [result for result in self.results if isinstance(result, Published)]

    @property
    def failed(self) -> list[Failed]:
        """Those it has not, as far as is known."""
        return [result for result in self.results if isinstance(result, Failed)]

    def raise_for_failures(self) -> None:
        """Raise when any message failed.

        Raises:
            PublishError: Says how many failed; its cause is the first failure's error.
        """
        failed = self.failed
        if failed:
            first = failed[0]
            raise PublishError(
                f"{len(failed)} of {len(self.results)} messages were not published; the first is "
                f"{first.type}: {first.error}",
                message_id=first.message_id,
                retryable=all(each.error.retryable for each in failed),
            ) from first.error
