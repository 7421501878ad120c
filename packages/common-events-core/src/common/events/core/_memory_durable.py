"""A durable consumer of the in-memory broker: what is delivered, to whom, and what comes again."""

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.events.core._subjects import matches
from common.events.core._transport import ConsumerSpec, StoredMessage

if TYPE_CHECKING:
    from common.events.core._memory_stream import MemoryStream


@dataclass(slots=True, eq=False)
class Unsettled:
    """A message that was delivered and is neither acknowledged nor terminated.

    Attributes:
        message: The message.
        attempt: Deliveries so far.
        due: When it may be delivered again, by the broker's clock.
        holder: Who has it in hand; ``None`` while it only waits.
        exhausted: Whether the holder got it as its last, not to be handled.
    """

    message: StoredMessage
    attempt: int = 0
    due: float = 0.0
    holder: "Reader | None" = None
    exhausted: bool = False


@dataclass(slots=True, eq=False)
class Reader:
    """One open consumer of a durable.

    Attributes:
        limit: Most messages in hand.
        held: Messages in hand.
        reading: Whether it may be given messages; not after it was told to stop.
        crashed_at: When its process ended, by the broker's clock.
    """

    limit: int
    held: int = 0
    reading: bool = True
    crashed_at: float | None = None


@dataclass(slots=True, eq=False)
class Durable:
    """The state of one durable consumer, judged at the time that each call gives.

    It has no timer of its own: what is due is found when somebody asks.
    """

    stream: "MemoryStream"
    spec: ConsumerSpec
    cursor: int
    unsettled: dict[int, Unsettled] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    deleted: bool = False
    _later: list[tuple[float, int]] = field(default_factory=list)
    _ready: dict[int, Unsettled] = field(default_factory=dict)
    _active: Reader | None = None
    _barrier: int | None = None

    def take(self, reader: Reader, now: float) -> list[Unsettled]:
        """Give a reader what it has room for."""
        taken: list[Unsettled] = []
        self._expire(now)
        if not reader.reading or (self.spec.ordered and not self._may_read(reader, now)):
            return taken
        while reader.held < reader.limit:
            item = self._next(reader)
            if item is None:
                break
            self._hand(item, reader, now)
            taken.append(item)
        return taken

    def settle(self, item: Unsettled) -> None:
        """Acknowledge or terminate: never deliver it again. A late one counts, too."""
        sequence = item.message.sequence
        if self.unsettled.get(sequence) is item:
            self.forget(sequence)
            self.stream.settled(sequence)

    def hand_back(self, item: Unsettled, reader: Reader, due: float) -> None:
        """Deliver it again once it is due, unless somebody else has it by now."""
        if item.holder is reader:
            self._take_from_holder(item)
            self._put_off(item, due)

    def extend(self, item: Unsettled, reader: Reader, now: float) -> None:
        """Start the time to settle it anew."""
        if item.holder is reader:
            self._put_off(item, now + self.spec.ack_wait)

    def leave(self, reader: Reader, now: float) -> None:
        """The reader closes: all that it has in hand comes again at once."""
        reader.reading = False
        if reader in self.readers:
            self.readers.remove(reader)
        for item in list(self.unsettled.values()):
            self.hand_back(item, reader, now)
        if self._active is reader:
            self._active = None

    def crash(self, reader: Reader, now: float) -> None:
        """The reader's process ended without a word: what it has in hand comes when it is due."""
        reader.reading = False
        reader.crashed_at = now
        if reader in self.readers:
            self.readers.remove(reader)

    def forget(self, sequence: int) -> None:
        """The message is settled, or was removed from the stream."""
        item = self.unsettled.pop(sequence, None)
        self._ready.pop(sequence, None)
        if item is not None:
            self._take_from_holder(item)

    def wants(self, message: StoredMessage) -> bool:
        """Whether it delivers such messages."""
        return any(matches(pattern, message.subject) for pattern in self.spec.subjects)

    def needs(self, message: StoredMessage) -> bool:
        """Whether it has still to deliver this message."""
        sequence = message.sequence
        return sequence in self.unsettled or (sequence >= self.cursor and self.wants(message))

    def next_due(self, now: float) -> float | None:
        """When time alone changes what can be delivered, at the earliest."""
        self._expire(now)
        times = [self._free_at()] + [due for due, _ in self._later[:1]]
        return min((time for time in times if time > now), default=None)

    def backlog(self) -> bool:
        """Whether something was never delivered yet."""
        stored = self.stream.messages
        while self.cursor <= self.stream.last:
            message = stored.get(self.cursor)
            if message is not None and self.wants(message):
                return True
            self.cursor += 1
        return False

    def busy(self, now: float) -> bool:
        """Whether something is in a living reader's hand, or could be delivered now."""
        if any(reader.held for reader in self.readers):
            return True
        if now < self._free_at():
            return False
        return bool(self._ready) or self.backlog()

    def _may_read(self, reader: Reader, now: float) -> bool:
        """Ordered: one reader at a time; the next begins with what the last left unsettled."""
        active = self._active
        if active is reader:
            return True
        if active is not None:
            finished = not active.reading and active.held == 0
            if now < self._free_at() or not (finished or active.crashed_at is not None):
                return False
        self._active = reader
        self._barrier = max(self.unsettled, default=None)
        return True

    def _free_at(self) -> float:
        """When another reader may take over from one whose process ended.

        It may be sooner than what that one had in hand is due, as with JetStream's pinned
        clients.
        """
        crashed_at = None if self._active is None else self._active.crashed_at
        return 0.0 if crashed_at is None else crashed_at + self.spec.ack_wait / 2

    def _next(self, reader: Reader) -> Unsettled | None:
        if self._barrier is not None:
            left = sorted(sequence for sequence in self.unsettled if sequence <= self._barrier)
            if left:
                first = next((n for n in left if self.unsettled[n].holder is not reader), None)
                return self._ready.pop(first, None) if first is not None else None
            self._barrier = None
        if self._ready:
            return self._ready.pop(next(iter(self._ready)))
        if self.backlog():
            message = self.stream.messages[self.cursor]
            self.cursor += 1
            item = self.unsettled[message.sequence] = Unsettled(message)
            return item
        return None

    def _hand(self, item: Unsettled, reader: Reader, now: float) -> None:
        most = self.spec.max_deliver
        item.exhausted = most is not None and item.attempt >= most
        item.attempt += not item.exhausted
        item.holder = reader
        reader.held += 1
        self._put_off(item, now + self.spec.ack_wait)

    def _take_from_holder(self, item: Unsettled) -> None:
        if item.holder is not None:
            item.holder.held -= 1
            item.holder = None

    def _put_off(self, item: Unsettled, due: float) -> None:
        item.due = due
        heapq.heappush(self._later, (due, item.message.sequence))

    def _expire(self, now: float) -> None:
        """Whose time has come is ready for delivery, and no longer in anybody's hand."""
        while self._later:
            due, sequence = self._later[0]
            item = self.unsettled.get(sequence)
            if item is None or item.due != due or sequence in self._ready:
                heapq.heappop(self._later)  # settled or put off meanwhile
            elif due > now:
                return
            else:
                heapq.heappop(self._later)
                self._take_from_holder(item)
                self._ready[sequence] = item
