"""Dead letters as they lie in their stream, and which of them are meant."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from common.errors import ValidationError
from common.events.core._declarations import DEAD_LETTER_PREFIX, DEAD_LETTERS
from common.events.core._errors import MissingStream
from common.events.core._subjects import matches
from common.events.core._transport import Capability, StoredMessage, Transport

PAGE = 64
"""Most dead letters held at a time."""

OWN = "dead-letter-"
ALL = ((1, None),)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Ranges = Sequence[tuple[int, int | None]]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Args:
        message: As it is stored.
    """

    message: StoredMessage
    _own: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = {
            name.lower()[len(OWN) :]: value
            for name, value in self.message.headers.items()
            if name.lower().startswith(OWN)
        }
        object.__setattr__(self, "_own", own)

    @property
    def sequence(self) -> int:
        """Its position in the stream of dead letters."""
        return self.message.sequence

    @property
    def subject(self) -> str:
        """Where the message was published."""
        return self._own.get("subject") or self.message.subject.removeprefix(DEAD_LETTER_PREFIX)

    @property
    def stream(self) -> str | None:
        """The stream the message comes from."""
        return self._own.get("stream")

    @property
    def consumer(self) -> str | None:
        """Durable name of the subscription that gave it up."""
        return self._own.get("consumer")

    @property
    def reason(self) -> str:
        """Why; see `DeadLetter`."""
        return self._own.get("reason", "?")

    @property
    def headers(self) -> dict[str, str]:
        """The headers the message came with."""
        headers = self.message.headers
        return {name: value for name, value in headers.items() if not name.lower().startswith(OWN)}

    def says(self, name: str) -> str:
        """Return the header ``Dead-Letter-<name>``."""
        return self._own.get(name, "?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant.

    Args:
        subject: Only of this subject, as it was published; ``*`` and ``>`` are allowed.
        consumer: Only of this subscription.
        reason: Only for this reason.
        since: Only those stored at this time or later.
        ranges: Only with these sequence numbers, in ascending order, both ends included.
    """

    subject: str | None = None
    consumer: str | None = None
    reason: str | None = None
    since: datetime | None = None
    ranges: Ranges = ALL

    @property
    def narrow(self) -> bool:
        """Whether it leaves any out."""
        return self != Filter()

    def takes(self, letter: Letter) -> bool:
        """Whether a dead letter is meant; its sequence number is not looked at."""
        return (
            (self.subject is None or matches(self.subject, letter.subject))
            and self.consumer in {None, letter.consumer or "?"}
            and self.reason in {None, letter.reason}
            and (self.since is None or letter.message.timestamp >= self.since)
        )


async def pages(
    transport: Transport, wanted: Filter, *, last: int | None = None
) -> AsyncGenerator[list[Letter]]:
    """Yield the dead letters that are meant, in their order, up to `PAGE` at a time.

    Args:
        transport: The broker.
        wanted: Which.
        last: Not beyond this sequence number.

    Raises:
        ValidationError: The transport cannot show what is stored, or there is no stream of dead
            letters.
    """
    if Capability.BROWSE not in transport.capabilities:
        raise ValidationError(f"transport {transport.name} cannot show stored messages")
    subject = None if wanted.subject is None else DEAD_LETTER_PREFIX + wanted.subject
    for low, high in wanted.ranges:
        after, end = low - 1, _least(high, last)
        while end is None or after < end:
            limit = PAGE if end is None else min(PAGE, end - after)
            try:
                found = await transport.browse(
                    DEAD_LETTERS, subject=subject, after=after, limit=limit
                )
            except MissingStream as error:
                raise ValidationError(
                    f"the broker has no stream {DEAD_LETTERS} yet, and so no dead letters: a bus "
                    "with subscriptions declares it when it starts (see common-events streams plan)"
                ) from error
            letters = [Letter(each) for each in found if end is None or each.sequence <= end]
            if page := [letter for letter in letters if wanted.takes(letter)]:
                yield page
            if len(letters) < limit:
                break
            after = letters[-1].sequence


def parse_ranges(texts: Sequence[str]) -> Ranges:
    """Return the ranges given as numbers or as ``FIRST-LAST``, sorted and without overlap.

    Raises:
        ValidationError: A text is neither.

    Example:
        >>> parse_ranges(["7", "1-3", "2-5"])
        [(1, 5), (7, 7)]
    """
    given: list[tuple[int, int]] = []
    for text in texts:
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", text)
        low = int(match[1]) if match else 0
        high = int(match[2] or low) if match else 0
        if not 1 <= low <= high:
            raise ValidationError(f"{text!r}: give a sequence number, such as 7, or a range, 7-12")
        given.append((low, high))
    merged: list[tuple[int, int | None]] = []
    for low, high in sorted(given):
        before = merged[-1][1] if merged else None
        if before is not None and low <= before + 1:
            merged[-1] = merged[-1][0], max(before, high)
        else:
            merged.append((low, high))
    return merged or ALL


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """Return the time given as such (ISO 8601, UTC unless it says otherwise) or as an age.

    Args:
        text: Such as ``"2026-05-04T10:00"``, ``"90m"``, ``"2h"`` or ``"7d"``.
        now: The present.

    Raises:
        ValidationError: It is neither.

    Example:
        >>> parse_since("2h", datetime(2026, 5, 4, 12, tzinfo=UTC)).hour
        10
    """
    try:
        if (age := re.fullmatch(r"([0-9]{1,9})([smhdw])", text)) is not None:
            seconds = int(age[1]) * _UNITS[age[2]]
            return (now or datetime.now(UTC)) - timedelta(seconds=seconds)
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError(
            f"--since {text!r}: give an age such as 90m, 2h or 7d, or a time such as "
            "2026-05-04T10:00"
        ) from None


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
