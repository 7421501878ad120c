"""What a service wants to exist on the broker, and what would have to change for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from common.domain import STREAM_DEFAULTS, Stream

DeclareMode = Literal["off", "verify", "create", "reconcile"]
"""How far the broker is brought in line: not at all; only compared, a difference raises; what is
missing is made, a difference raises; what is missing is made and what differs is changed."""

DEAD_LETTERS = "DEAD_LETTERS"
"""The stream of dead letters."""

DEAD_LETTER_PREFIX = "dead."
"""A dead letter's subject is this and the subject of the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """A stream as it should be; ``None``: not owned, whatever the broker has is left alone.

    Args:
        name: Such as ``"CALL"``.
        subjects: Subject filters, such as ``("evt.call.>", "cmd.call.>")``.
        retention: Which messages are kept: up to the limits, until every consumer has handled
            them, or until one has. Cannot be changed later on most brokers.
        storage: Where. Cannot be changed later.
        replicas: Copies in the cluster: 1, 3 or 5.
        max_age: Messages older than this are removed.
        max_messages: Most messages kept.
        max_bytes: Most bytes kept.
        max_messages_per_subject: Most messages kept for each subject.
        duplicate_window: How long message ids are remembered.
        allow_rollup: Whether a message may replace all before it.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "interest", "workqueue"] = STREAM_DEFAULTS.retention
    storage: Literal["file", "memory"] = STREAM_DEFAULTS.storage
    replicas: int | None = None
    max_age: timedelta | None = timedelta(days=STREAM_DEFAULTS.max_age_days)
    max_messages: int | None = None
    max_bytes: int | None = None
    max_messages_per_subject: int | None = STREAM_DEFAULTS.max_msgs_per_subject
    duplicate_window: timedelta | None = timedelta(seconds=STREAM_DEFAULTS.duplicate_window_seconds)
    allow_rollup: bool | None = STREAM_DEFAULTS.allow_rollup

    @classmethod
    def of(cls, stream: Stream) -> "StreamSpec":
        """Return the declaration of a stream of the vocabulary, with the platform's defaults."""
        return cls(name=stream.name, subjects=stream.subjects)


_CHANGEABLE = frozenset({"subjects", "duplicate_window"})
"""Every broker can change these: what they conflict with is something else, and is told."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the broker and the declarations.

    Attributes:
        kind: ``"create"``: is missing; ``"update"``: can be changed; ``"conflict"``: the setting
            cannot be changed, or not to this, as of subjects that another stream takes.
        resource: Such as ``"stream CALL"`` or ``"consumer CALL/billing"``.
        field: The setting that differs; none for what is missing.
        current: As the broker has it.
        wanted: As declared.
    """

    kind: Literal["create", "update", "conflict"]
    resource: str
    field: str | None = None
    current: object = None
    wanted: object = None

    def __str__(self) -> str:
        if self.field is None:
            return f"+ {self.resource}"
        sign = "!" if self.kind == "conflict" else "~"
        note = " (cannot be changed)" if sign == "!" and self.field not in _CHANGEABLE else ""
        return f"{sign} {self.resource}: {self.field}: {self.current} -> {self.wanted}{note}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What declaring would change; its text is a diff.

    Attributes:
        changes: In the order in which they would be made.
        applied: Whether they were made.
    """

    changes: Sequence[Change] = ()
    applied: bool = False

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(str(change) for change in self.changes) or "no changes"
