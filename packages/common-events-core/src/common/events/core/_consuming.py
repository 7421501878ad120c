"""A subscription at work: from the broker to the handler, and back."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from common.context import Context, bind, current, operation
from common.events.core._dead_letter import REPLAY_CONSUMER, DeadLetter, store_dead_letter
from common.events.core._decoder import Decoder
from common.events.core._dispatch import Dispatcher
from common.events.core._errors import TransportClosed, UndecodableMessage
from common.events.core._event_context import EventContext
from common.events.core._extend import extend
from common.events.core._in_hand import InHand
from common.events.core._isolate import isolated
from common.events.core._middleware import Next
from common.events.core._middleware._failures import describe
from common.events.core._outcome import Outcome, Reject, RetryLater
from common.events.core._retry import Exponential, Retry
from common.events.core._subscription import Subscription
from common.events.core._transport import Capability, Consumer, ConsumerSpec, Delivery, Transport

logger = logging.getLogger("common.events")

GRACE = 2.0
"""Seconds a cancelled handler has to end before the bus goes on without it."""

_STORE_AGAIN = Retry(attempts=1, backoff=Exponential(1, 60))
_FEWEST_DELIVERIES = 2
"""So many a message has even with one attempt: the first may have ended before its turn."""

_UNKNOWN = frozenset({"unknown_type", "unknown_version"})


class Consuming:
    """One subscription, from `start` to `stop`.

    Args:
        subscription: What is subscribed.
        spec: What the broker is asked for.
        transport: The broker.
        decoder: Reads its messages.
        chain: Middleware and handler.
        on_failure: Called once, when it cannot go on.
        pauses: Whether attempts are apart, as `Retry` and handlers say.
    """

    def __init__(
        self,
        subscription: Subscription,
        spec: ConsumerSpec,
        transport: Transport,
        *,
        decoder: Decoder,
        chain: Next,
        on_failure: Callable[[Exception], None],
        pauses: bool = True,
    ) -> None:
        self.subscription = subscription
        """What is subscribed."""
        self.error: Exception | None = None
        """Why it cannot go on."""
        self._spec = spec
        self._transport = transport
        self._decode = decoder.decode
        # Chains begin with a middleware of ours, and those are coroutine functions.
        self._chain = cast("Callable[[EventContext], Coroutine[Any, Any, Outcome | None]]", chain)
        self._on_failure = on_failure
        self._pauses = pauses
        self._deliveries = max(subscription.retry.attempts, _FEWEST_DELIVERIES)
        # What waits for its next attempt stays here where nothing may overtake it, and where the
        # broker knows no delay.
        self._keeps = subscription.per_key or Capability.DELAYED_RETRY not in transport.capabilities
        self._held: dict[int, InHand] = {}
        self._room = asyncio.Event()
        self._dispatcher = Dispatcher[InHand](
            self._handle, concurrency=subscription.concurrency, discard=self._hand_back
        )
        self._consumer: Consumer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """Messages this process holds."""
        return len(self._held)

    @property
    def running(self) -> bool:
        """Whether it takes messages."""
        return bool(self._tasks) and not self._stopping and self.error is None

    async def start(self) -> None:
        """Make the durable consumer if need be, and take messages."""
        self._consumer = await self._transport.consume(self._spec)
        loop = asyncio.get_running_loop()
        extending = extend(
            self._held.values,
            consumer=self.subscription.durable,
            ack_wait=self._spec.ack_wait,
            limit=self.subscription.extend_seconds,
        )
        # No message belongs to what the bus was started in, nor to the deadline for starting.
        with bind(Context(service=current().service)):
            pumping = loop.create_task(self._pump(self._consumer))
            self._tasks = [pumping, loop.create_task(extending)]
        logger.info(
            "%s: consumes %s from stream %s, at most %d at once%s",
            self._spec.durable,
            ", ".join(self._spec.subjects),
            self._spec.stream,
            self.subscription.concurrency,
            ", each key in order" if self.subscription.per_key else "",
        )

    async def stop(self, deadline: float, now: asyncio.Event) -> None:
        """Take no more, let handlers finish, hand back the rest. Raises nothing but cancellation.

        Args:
            deadline: When handlers are cancelled, in seconds of `time.monotonic`.
            now: Set to cancel them at once.
        """
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        self._stopping = True
        self._room.set()
        try:
            await self._quietly(consumer.stop())
            await self._dispatcher.halt()
            if not await self._drained(deadline, now):
                self._dispatcher.cancel()
                if not await self._dispatcher.drain(GRACE):
                    logger.error(
                        "%s: %d handlers go on although they were cancelled; their messages are "
                        "handed back: let handlers end when they are cancelled",
                        self.subscription.durable,
                        self._dispatcher.workers,
                    )
        finally:
            for task in self._tasks:
                task.cancel()
            self._dispatcher.cancel()
            await asyncio.wait(self._tasks)
            await self._quietly(consumer.close())

    async def _drained(self, deadline: float, now: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        drained = loop.create_task(self._dispatcher.drain())
        hurry = loop.create_task(now.wait())
        try:
            left = max(deadline - time.monotonic(), 0.0)
            await asyncio.wait({drained, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            return drained.done()
        finally:
            drained.cancel()
            hurry.cancel()

    async def _pump(self, consumer: Consumer) -> None:
        limit = self._spec.max_outstanding
        try:
            while True:
                while len(self._held) >= limit and not self._stopping:
                    self._room.clear()
                    await self._room.wait()
                deliveries = await consumer.receive()
                if not deliveries:
                    break
                for delivery in deliveries:
                    if self._stopping:
                        await self._quietly(delivery.nak())
                    else:
                        self._admit(delivery)
            if not self._stopping:
                self._fail(TransportClosed("the transport was closed while the bus was running"))
        except Exception as error:  # noqa: BLE001 - ends the bus, which raises it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.error is None and not self._stopping:
            self.error = error
            logger.critical("%s: stopped: %s", self.subscription.durable, error, exc_info=error)
            with operation("messaging.receive", self._spec.stream) as op:
                op.set({"messaging.consumer.group.name": self._spec.durable})
                op.fail(error=error)
            self._on_failure(error)

    def _admit(self, delivery: Delivery) -> None:
        """Decode a delivery and queue it."""
        item = InHand(delivery)
        index = delivery.sequence or -id(item)
        known = self._held.get(index)
        if (
            known is not None
            and not known.delivery.settled
            and not (known.let_go and self._used_up(delivery))
            # In a stream that was deleted and made anew, positions are those of other messages.
            and known.delivery.data == delivery.data
        ):
            # The broker was not told in time that it is in hand. It is not handled twice at once.
            known.delivery = delivery
            return
        self._held[index] = item
        if (replayed := delivery.header(REPLAY_CONSUMER)) and replayed != self._spec.durable:
            # Before all else: what others gave up must not become a dead letter here, nor wait
            # for a key it may not even have.
            self._dispatcher.put(item)
            return
        if self._used_up(delivery):
            reason = "exhausted" if delivery.exhausted else "attempts"
            self._queue_letter(
                item,
                reason,
                "no attempt is left: the last ended without a result, as its process was killed, "
                "or stopped before its turn",
            )
            return
        try:
            envelope, event = self._decode(delivery.subject, item.headers, delivery.data)
        except UndecodableMessage as error:
            self._undecodable(item, error)
            return
        except Exception as error:
            logger.exception("%s: the decoder failed", self.subscription.durable)
            self._queue_letter(item, "malformed", f"the decoder failed: {type(error).__name__}")
            return
        durable = self._spec.durable
        item.context = EventContext(
            event, envelope, delivery, consumer=durable, attempt=delivery.attempt
        )
        # What comes again starts sooner, and not always behind the same: one of these may be
        # what kills the process each time, and the others are not to share its end.
        self._dispatcher.put(
            item,
            envelope.subject if self.subscription.per_key else None,
            anywhere=delivery.attempt > 1,
        )

    def _used_up(self, delivery: Delivery) -> bool:
        return delivery.exhausted or delivery.attempt > self._deliveries

    def _undecodable(self, item: InHand, error: UndecodableMessage) -> None:
        policy = self.subscription.unknown
        if error.reason in _UNKNOWN and policy != "dead_letter":
            if policy == "fail":
                self._fail(error)
                self._release(item)
                return  # closing the consumer hands it back
            self._dispatcher.put(item)
            return
        self._queue_letter(item, error.reason, str(error))

    def _queue_letter(self, item: InHand, reason: str, error: str) -> None:
        item.letter = DeadLetter(reason, error, item.delivery.attempt, self._spec.durable)
        self._dispatcher.put(item)

    # What follows runs in the dispatcher's workers.

    async def _handle(self, item: InHand) -> float | None:
        """Handle, or store as a dead letter; return the pause before the next attempt here."""
        pause: float | None = None
        try:
            context = item.context
            if item.letter is None and context is not None:
                outcome = await self._attempt(item, context)
                if outcome is None:
                    await item.delivery.ack()
                else:
                    pause = await self._settle(item, context, outcome)
            elif item.letter is None:
                await item.delivery.ack()  # it is to be ignored
            if item.letter is not None:
                pause = await self._give_up(item, item.letter)
        except asyncio.CancelledError:
            await self._hand_back(item)
            raise
        except Exception:
            logger.exception(
                "%s: a message could not be settled and will come again", self._spec.durable
            )
        if pause is None:
            self._release(item)
        return pause

    async def _settle(self, item: InHand, context: EventContext, outcome: Outcome) -> float | None:
        """Do what the handler said; return the pause before the next attempt here."""
        if isinstance(outcome, RetryLater):
            retry = self.subscription.retry
            if item.attempt >= retry.attempts:
                item.letter = self._letter("attempts", outcome.reason, item)
                return None
            delay = retry.delay(item.attempt) if outcome.after is None else outcome.after
            if not self._pauses:
                delay = 0.0
            if not self._keeps:
                await item.delivery.nak(delay)
                return None
            item.attempt += 1
            item.context = EventContext(
                context.event,
                context.envelope,
                item.delivery,
                consumer=context.consumer,
                attempt=item.attempt,
            )
            return delay
        if isinstance(outcome, Reject):
            reason = "rejected" if context.error is None else "given_up"
            item.letter = self._letter(reason, outcome.reason, item)
            return None
        await item.delivery.ack()
        return None

    async def _attempt(self, item: InHand, context: EventContext) -> Outcome | None:
        """Call middleware and handler; their own cancellation is a failure like any other."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - workers are tasks
        item.worker, item.started, item.overdue = task, time.monotonic(), False
        outcome: Outcome | None
        try:
            outcome = await isolated(self._chain(context))
        except asyncio.CancelledError:
            outcome = RetryLater(reason="CancelledError: the handler cancelled itself")
            if item.overdue:
                limit = self.subscription.extend_seconds
                outcome = RetryLater(reason=f"it ran longer than extend_up_to, {limit} s")
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # of a middleware of ours; or no Exception: pytest.fail()
            logger.exception("%s: middleware or handler failed", self._spec.durable)
            outcome = RetryLater(reason=describe(error))
        finally:
            item.worker = None
            if item.overdue:
                task.uncancel()
        if task.cancelling() and isinstance(outcome, (RetryLater, Reject)):
            # The bus stops. Whatever the handler made of that, it is no fault of the message.
            raise asyncio.CancelledError
        return outcome

    def _letter(self, reason: str, error: str, item: InHand) -> DeadLetter:
        return DeadLetter(reason, error, item.attempt, self._spec.durable)

    async def _give_up(self, item: InHand, letter: DeadLetter) -> float | None:
        """Store the dead letter, and only then tell the broker to forget the message."""
        changes: dict[str, Any] = {}
        if item.context is not None:
            envelope = item.context.envelope
            changes = {"correlation_id": envelope.correlation_id, "tenant": envelope.tenant}
        with bind(**changes):
            if not self.subscription.dead_letter:
                await self._drop(item, letter)
                return None
            try:
                await store_dead_letter(self._transport, item.delivery, letter)
            except Exception:
                item.stores += 1
                # Handed back with deliveries left, it would be handled once more than allowed.
                used_up = letter.reason == "attempts"
                keeps = self._keeps or (used_up and item.delivery.attempt < self._deliveries)
                delay = _STORE_AGAIN.delay(item.stores if keeps else item.delivery.attempt)
                logger.exception(
                    "%s: a dead letter could not be stored; next try in %.1f s",
                    self._spec.durable,
                    delay,
                )
                if keeps:
                    return delay
                await item.delivery.nak(delay)
                return None
            logger.error(
                "%s: message %s/%d became a dead letter after %d attempts: %s: %s",
                letter.consumer,
                item.delivery.stream,
                item.delivery.sequence,
                letter.attempts,
                letter.reason,
                letter.error,
            )
            await item.delivery.term(letter.reason)
        return None

    async def _drop(self, item: InHand, letter: DeadLetter) -> None:
        with operation("messaging.settle", "drop") as op:
            op.set(
                {
                    "messaging.consumer.group.name": letter.consumer,
                    "messaging.dead_letter.reason": letter.reason,
                }
            )
            op.fail("MESSAGE_DROPPED")
        logger.error(
            "%s: message %s/%d is dropped after %d attempts, for dead_letter is off: %s: %s",
            letter.consumer,
            item.delivery.stream,
            item.delivery.sequence,
            letter.attempts,
            letter.reason,
            letter.error,
        )
        await item.delivery.term(letter.reason)

    async def _hand_back(self, item: InHand) -> None:
        self._release(item)
        await self._quietly(item.delivery.nak())

    def _release(self, item: InHand) -> None:
        index = item.delivery.sequence or -id(item)
        if self._held.get(index) is item:
            del self._held[index]
        self._room.set()

    async def _quietly(self, settling: Awaitable[None]) -> None:
        try:
            await settling
        except Exception:
            logger.exception("%s: the transport failed", self._spec.durable)
