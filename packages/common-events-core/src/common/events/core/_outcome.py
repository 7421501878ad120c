"""What a handler may say about the message it was given."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Ack:
    """The message is handled; the same as returning nothing."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Not now: hand the message in again. It counts as an attempt.

    Args:
        after: Seconds until then; ``None``: as the subscription's `Retry` says.
        reason: Shown in logs, and in the dead letter when no attempt is left.
    """

    after: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.after is not None and not 0 <= self.after <= MAX_DELAY:
            raise ValueError(
                f"RetryLater(after={self.after}): give seconds from 0 to {MAX_DELAY:.0f}; for "
                "later than that, schedule a command"
            )


@dataclass(frozen=True, slots=True)
class Reject:
    """Never: store the message as a dead letter at once.

    Args:
        reason: Why, for whoever looks at the dead letter.
    """

    reason: str


MAX_DELAY = 86_400.0
"""Most seconds between two attempts."""

Outcome: TypeAlias = Ack | RetryLater | Reject
"""What a handler returns; nothing at all is `Ack`."""
