"""A message this process holds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.events.core._dead_letter import DeadLetter
from common.events.core._event_context import EventContext
from common.events.core._transport import Delivery

if TYPE_CHECKING:
    import asyncio


class InHand:
    """A delivery on its way from the broker to a handler and back.

    Attributes:
        delivery: The newest delivery of the message, by which it is settled.
        context: The decoded message; ``None`` when it is not to be handled.
        attempt: Number of the attempt that runs or comes next, from 1.
        letter: Why it is given up, once it is.
        stores: How often storing the dead letter has failed.
        worker: Task that runs the handler, while it does.
        started: When that began, in seconds of `time.monotonic`.
        overdue: Whether the handler was cancelled for keeping the message too long.
        let_go: Whether it did not even end then: the message is not extended any more.
    """

    # What is rarely set: a default of the class costs a message nothing.
    context: EventContext | None = None
    letter: DeadLetter | None = None
    stores: int = 0
    worker: "asyncio.Task[object] | None" = None
    started: float = 0.0
    overdue: bool = False
    let_go: bool = False

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.attempt = delivery.attempt

    def headers(self) -> Mapping[str, str]:
        """Return the headers, which are parsed only then."""
        return self.delivery.headers
