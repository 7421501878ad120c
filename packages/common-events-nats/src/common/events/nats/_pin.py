"""Ordered consumers: one active process at a time, and a barrier when another takes over.

The server pins one client of a priority group (ADR-42, nats-server 2.11) and says itself that
this is not exclusive: after a crash, or when a process was stopped for a while, the next one is
given new messages while older ones are still unsettled. So whoever gets the pin holds back all
it receives until every unsettled message of the consumer is its own: the others have then been
settled by the process that had them, or have come again. What is held goes on in stream order.

The same holds for messages lost on their way to the pinned process itself, when its connection is
cut: the server gives it the following ones at once. The consumer counts its deliveries, so that a
gap in these numbers tells.

The server tells how many messages are unsettled, not which. What came here a second time may be
settled late by the process that had it first, and would then be counted in place of another: when
others settle anything while such messages are held, these are handed back, and counted anew as
far as they come again. A server that was started again may even have forgotten a delivery, and
make it to another process as if for the first time: that is why nobody acknowledges what it got
before (see ``Pull``), and what is handed back is still counted as unsettled.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import MessageBusError
from common.events.nats._api import Json
from common.events.nats._consumer_config import GROUP, pin_seconds
from common.events.nats._delivery import NatsDelivery

if TYPE_CHECKING:
    from common.events.nats._pull import Pull

_HEADER = b"Nats-Pin-Id:"
_FIRST_LOOK = 0.05
_LONGEST_LOOK = 1.0
_ANSWER_SECONDS = 2.0


class Pin:
    """This process's place in the priority group.

    Args:
        ack_wait: The consumer's, in seconds.
        take: Called with each message that may go on.

    Attributes:
        held: Messages that wait for those before them, by sequence.
    """

    def __init__(self, ack_wait: float, take: Callable[[NatsDelivery], None]) -> None:
        self.held: dict[int, NatsDelivery] = {}
        self._take = take
        self._ack_wait = ack_wait
        self._seconds = pin_seconds(ack_wait)
        self._id: bytes | None = None
        self._shut = False
        self._last = 0  # delivery of the consumer
        self._pulled = 0.0
        self._look = _FIRST_LOOK
        self._elsewhere: int | None = None

    def mark(self, request: Json) -> None:
        """Make a pull request one of the group, with the pin that this process has."""
        request["group"] = GROUP
        if self._id is not None:
            request["id"] = self._id.decode()
        self._pulled = time.monotonic()

    def may_ask(self, asked: int) -> bool:
        """Whether another request has a meaning beside those for ``asked`` messages.

        Without the pin one is enough: it may get the pin, but then nothing else is given to the
        others, which do not name it, for as long as they wait.
        """
        return self._id is not None or not asked

    def admit(self, delivery: NatsDelivery, headers: bytes | None, pull: "Pull") -> bool:
        """Whether a message may go on; otherwise it is held until it may."""
        found, number = _pin_id(headers), delivery.consumer_sequence
        pinned_anew = found is not None and found != self._id
        if pinned_anew:
            self.lose()  # what was held before may meanwhile have been another's
            self._id = found
            pull.ask_later()  # for what there was no use in asking without it
        if pinned_anew or number != self._last + 1:
            self._shut = True
            self._look = _FIRST_LOOK
            self._elsewhere = None
            pull.wake()
        self._last = number
        delivery.pin = self._id
        if self._shut:
            older = self.held.get(delivery.sequence)
            if older is not None:
                pull.unsettled.discard(older)  # came again before its turn
            self.held[delivery.sequence] = delivery
        return not self._shut

    def compare(self, info: Json) -> None:
        """Note whom the broker takes for the active process; another leader knows of none.

        It would take a request that names the old pin for one of a process unknown to it, pin
        that, and then refuse it.
        """
        if self._id is not None and _pinned(info) != self._id:
            self.lose()

    def lose(self) -> None:
        """Another process is active: hand back what was held for the turn that is over."""
        self._id = None
        held, self.held = self.held, {}
        for sequence in sorted(held):
            held[sequence].hand_back()

    def give_up(self, pull: "Pull") -> None:
        """Let another process take over at once, unless one may have done so already."""
        if self._id is not None and time.monotonic() - self._pulled < self._seconds:
            pull.publish(
                f"{pull.api.prefix}.CONSUMER.UNPIN.{pull.stream}.{pull.durable}",
                b'{"group":"%b"}' % GROUP.encode(),
            )
        self._id = None

    def tick(self) -> float:
        """Seconds until `care` is wanted."""
        return min(self._look, self._seconds / 3) if self._shut else self._seconds / 3

    async def care(self, pull: "Pull") -> None:
        """Look whether the barrier may open, and keep the pin."""
        if self._shut:
            await self._try_to_open(pull)
        if self._id is not None and time.monotonic() - self._pulled >= self._seconds / 4:
            # Only requests keep the pin, but there may be no room to ask for a message: ask for
            # one of at most a byte, headers and subject included.
            pull.request({"batch": 1, "no_wait": True, "max_bytes": 1}, keep=True)

    async def _try_to_open(self, pull: "Pull") -> None:
        now = time.monotonic()
        for delivery in tuple(self.held.values()):
            if delivery.deadline - now < self._ack_wait * 2 / 3:
                pull.extend(delivery)
        pin = self._id
        try:
            info = await pull.api.request(
                f"CONSUMER.INFO.{pull.stream}.{pull.durable}", timeout=_ANSWER_SECONDS
            )
        except MessageBusError:
            return  # not the time to judge: the pull engine deals with it
        if pin != self._id or pin is None or pin != _pinned(info):
            return  # not, or no longer, active: held messages may be another's by now
        pending = int(info["num_ack_pending"])
        # What was delivered after this answer was made is not among those it counts.
        seen = int(info["delivered"]["consumer_seq"])
        counted = [each for each in pull.unsettled if each.consumer_sequence <= seen]
        # Nobody else has had these, so that nobody else settles them.
        own = {each.sequence for each in counted if each.attempt == 1 and each.pin == pin}
        again = {each.sequence for each in counted if each.sequence in self.held} - own
        before, self._elsewhere = self._elsewhere, pending - len(own)
        if again and before is not None and self._elsewhere < before:
            self._elsewhere = None
            for sequence in sorted(again):
                self.held.pop(sequence).hand_back()
        elif pending <= len(own) + len(again) and not (again and before is None):
            self._open(pull)
            return
        elif before is not None:
            self._look = min(self._look * 2, _LONGEST_LOOK)
        # A predecessor with more room may have left more than there is room for here.
        pull.widen(max(pending, int(info["config"].get("max_ack_pending", 0))))

    def _open(self, pull: "Pull") -> None:
        self._shut = False
        pull.widen(0)
        held, self.held = self.held, {}
        for sequence in sorted(held):
            # Also what is overdue: as long as the pin was ours, it came again to nobody else.
            self._take(held[sequence])


def _pinned(info: Json) -> bytes | None:
    """Return the pin of the active process, as the consumer's info has it."""
    for group in info.get("priority_groups") or ():
        if group.get("group") == GROUP:
            return str(group.get("pinned_client_id", "")).encode() or None
    return None


def _pin_id(headers: bytes | None) -> bytes | None:
    if headers is None:
        return None
    start = headers.find(_HEADER)
    if start < 0:
        return None
    return headers[start + len(_HEADER) : headers.find(b"\r\n", start)].strip()
