"""A stream of the in-memory broker."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from common.events.core._declarations import StreamSpec
from common.events.core._errors import PublishRejected
from common.events.core._memory_durable import Durable
from common.events.core._subjects import matches
from common.events.core._transport import ConsumerSpec, Outgoing, Receipt, StoredMessage

_DEFAULT_WINDOW = timedelta(seconds=120)  # JetStream's


class MemoryStream:
    """Messages in their order, the ids of late, and the durable consumers.

    Args:
        spec: How it was declared.
        bound: Most messages, whatever was declared.
    """

    def __init__(self, spec: StreamSpec, *, bound: int) -> None:
        self.spec = spec
        self.messages: dict[int, StoredMessage] = {}
        self.last = 0
        self.durables: dict[str, Durable] = {}
        self._bound = bound
        self._bytes = 0
        self._subjects: Counter[str] = Counter()
        self._ids: dict[str, tuple[int, float]] = {}

    def takes(self, subject: str) -> bool:
        """Whether a subject is this stream's."""
        return any(matches(pattern, subject) for pattern in self.spec.subjects)

    def store(self, message: Outgoing, *, now: float, timestamp: datetime) -> Receipt:
        """Keep a message, unless its id is known.

        Args:
            message: The message.
            now: Time in seconds.
            timestamp: The same time, as the message has it.

        Raises:
            PublishRejected: It is full of messages that consumers have not settled.
        """
        self._forget_ids(now)
        known = self._ids.get(message.id)
        if known is not None:
            return Receipt(message.id, self.spec.name, known[0], duplicate=True)
        self.expire(timestamp)
        self._make_room()
        self.last += 1
        stored = StoredMessage(
            self.spec.name,
            self.last,
            message.subject,
            bytes(message.data),
            timestamp,
            dict(message.headers),
        )
        self._ids[message.id] = self.last, now
        if self.spec.retention != "interest" or self._wanted(stored):
            self.messages[self.last] = stored
            self._bytes += len(stored.data)
            self._subjects[stored.subject] += 1
            self._keep_to_limits(stored.subject)
        return Receipt(message.id, self.spec.name, self.last)

    def durable(self, spec: ConsumerSpec) -> Durable:
        """Return the durable consumer, made if need be."""
        durable = self.durables.get(spec.durable)
        if durable is None:
            start = self.last + 1 if spec.deliver == "new" else 1
            durable = self.durables[spec.durable] = Durable(self, spec, start)
        return durable

    def settled(self, sequence: int) -> None:
        """A consumer is done with a message."""
        message = self.messages.get(sequence)
        if message is None or self.spec.retention == "limits":
            return
        if self.spec.retention == "workqueue" or not self._needed(message):
            self.remove(sequence)

    def remove(self, sequence: int) -> bool:
        """Delete a message; whether it was there."""
        message = self.messages.pop(sequence, None)
        if message is None:
            return False
        self._bytes -= len(message.data)
        self._subjects[message.subject] -= 1
        if not self._subjects[message.subject]:
            del self._subjects[message.subject]
        for durable in self.durables.values():
            durable.forget(sequence)
        return True

    def expire(self, now: datetime) -> None:
        """Remove what is older than it may become."""
        if self.spec.max_age:
            limit = now - self.spec.max_age
            self._remove_while(lambda message: message.timestamp < limit)

    def _remove_while(self, old: Callable[[StoredMessage], bool]) -> None:
        while self.messages and old(first := next(iter(self.messages.values()))):
            self.remove(first.sequence)

    def _keep_to_limits(self, subject: str) -> None:
        """As JetStream does by default: the oldest goes."""
        spec = self.spec
        most = spec.max_messages_per_subject
        if most is not None and most > 0 and self._subjects[subject] > most:
            self.remove(self._oldest(subject))
        self._remove_while(
            lambda _: bool(
                (spec.max_messages and len(self.messages) > spec.max_messages)
                or (spec.max_bytes and self._bytes > spec.max_bytes)
            )
        )

    def _oldest(self, subject: str) -> int:
        return next(n for n, message in self.messages.items() if message.subject == subject)

    def _make_room(self) -> None:
        """Stay bounded without losing what a consumer has still to see."""
        if len(self.messages) < self._bound:
            return
        oldest = next(iter(self.messages.values()))
        if self._needed(oldest):
            raise PublishRejected(
                f"stream {self.spec.name} of the in-memory transport is full: {self._bound} "
                "messages, the oldest not settled by every consumer; run the consumers, or raise "
                "max_messages"
            )
        self.remove(oldest.sequence)

    def _wanted(self, message: StoredMessage) -> bool:
        return any(durable.wants(message) for durable in self.durables.values())

    def _needed(self, message: StoredMessage) -> bool:
        return any(durable.needs(message) for durable in self.durables.values())

    def _forget_ids(self, now: float) -> None:
        window = self.spec.duplicate_window
        limit = now - (_DEFAULT_WINDOW if window is None else window).total_seconds()
        while self._ids and (
            next(iter(self._ids.values()))[1] <= limit or len(self._ids) > self._bound
        ):
            del self._ids[next(iter(self._ids))]


def find_stream(streams: Iterable[MemoryStream], subject: str) -> MemoryStream | None:
    """Return the stream that takes a subject."""
    return next((stream for stream in streams if stream.takes(subject)), None)
