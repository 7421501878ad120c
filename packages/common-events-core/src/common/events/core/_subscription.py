"""A subscription as declared: which messages, for whom, and what becomes of failures."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypedDict

from common.domain import CONSUMER_DEFAULTS, UnknownStreamError
from common.domain import Streams as DomainStreams
from common.errors import ValidationError
from common.events.core._errors import HandlerError
from common.events.core._handler import HandlerInfo, Types, check_types, message_types
from common.events.core._inbox import Inbox
from common.events.core._middleware import Middleware
from common.events.core._retry import Retry
from common.events.core._transport import ConsumerSpec

Unknown: TypeAlias = Literal["dead_letter", "ignore", "fail"]

GIVE_UP_ON: tuple[type[Exception], ...] = (ValidationError,)
"""Failures that no further attempt mends, unless a subscription says otherwise."""

DURABLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADROOM = 10
"""Deliveries beyond the attempts before the broker itself gives up, which is a last resort."""


class SubscriptionOptions(TypedDict, total=False):
    """Options of `EventBus.subscribe` and `EventBus.add`; `Subscription` describes them."""

    concurrency: int
    per_key: bool
    retry: Retry
    give_up_on: Sequence[type[Exception]]
    dead_letter: bool
    unknown: Unknown
    inbox: Inbox[Any] | None
    timeout: float | timedelta | None
    extend_up_to: float | timedelta
    ack_wait: float | timedelta
    max_outstanding: int | None
    deliver: Literal["all", "new"]
    middleware: Sequence[Middleware]


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """One handler, fed by one durable consumer of one stream.

    Args:
        handler: The handler.
        types: The message classes; all of one stream.
        durable: Name of the durable consumer: letters, digits, ``_`` and ``-``, at most 64. All
            processes with this name share its messages.
        concurrency: Most messages handled at once in this process.
        per_key: Messages of one key one after another, in the order of the stream, over all
            processes; different keys at once. A message that fails is kept and tried again here,
            and those of its key wait for it. Without, a message that fails is handed back to the
            broker, and others overtake it.
        retry: How often and when a failed message is tried again.
        give_up_on: Exceptions that make a message a dead letter at once; all others are retried.
        dead_letter: Whether messages that are given up are stored as dead letters. Without, they
            are dropped, and that is logged as an error.
        unknown: What to do with a type or version no class reads: store it as a dead letter,
            acknowledge it, or end `EventBus.run` with the error.
        inbox: Makes the effects of a message, through its transaction, happen once.
        timeout: Seconds one attempt may take; it is then cancelled and counts as failed.
        extend_up_to: Seconds one attempt may keep its message, which is extended at the broker
            meanwhile. The attempt is then cancelled and counts as failed; should it not end, its
            message is let go.
        ack_wait: Seconds after which the broker delivers a message again, of which it has heard
            nothing; extended in thirds of it.
        max_outstanding: Most messages this process holds; by default four times concurrency,
            at least 64.
        deliver: What a new durable consumer starts with: all that is stored, or what is new.
        middleware: Around the handler, the first one outermost.

    Raises:
        HandlerError: On construction, when one of these is wrong.
    """

    handler: HandlerInfo
    types: Types
    durable: str
    concurrency: int = 16
    per_key: bool = False
    retry: Retry = field(default_factory=Retry)
    give_up_on: Sequence[type[Exception]] = GIVE_UP_ON
    dead_letter: bool = True
    unknown: Unknown = "dead_letter"
    inbox: Inbox[Any] | None = None
    timeout: float | timedelta | None = None
    extend_up_to: float | timedelta = 600.0
    ack_wait: float | timedelta = float(CONSUMER_DEFAULTS.ack_wait_seconds)
    max_outstanding: int | None = None
    deliver: Literal["all", "new"] = "all"
    middleware: Sequence[Middleware] = ()

    def __post_init__(self) -> None:
        if not DURABLE.fullmatch(self.durable):
            raise self._wrong(
                f"durable {self.durable!r}: give 1 to 64 letters, digits, _ or -, such as 'billing'"
            )
        if self.concurrency < 1:
            raise self._wrong(f"concurrency {self.concurrency}: give at least 1")
        if self.max_outstanding is not None and self.max_outstanding < self.concurrency:
            raise self._wrong(
                f"max_outstanding {self.max_outstanding} is less than concurrency "
                f"{self.concurrency}: so many could never run at once"
            )
        if self.unknown not in {"dead_letter", "ignore", "fail"}:
            raise self._wrong(f"unknown={self.unknown!r}: give 'dead_letter', 'ignore' or 'fail'")
        for name in ("timeout", "extend_up_to", "ack_wait"):
            value = getattr(self, name)
            if value is None:
                continue
            seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
            if not (math.isfinite(seconds) and seconds > 0):
                raise self._wrong(f"{name} {value}: give more than 0 seconds, or a timedelta")
            object.__setattr__(self, name, seconds)
        object.__setattr__(self, "give_up_on", tuple(self.give_up_on))
        classes: Sequence[object] = self.give_up_on
        for each in classes:
            if not (isinstance(each, type) and issubclass(each, Exception)):
                raise self._wrong(f"give_up_on: {each!r} is no class of exceptions")
        check_types(self.handler, self.types)

    @property
    def name(self) -> str:
        """Durable name; by this logs, errors and health speak of the subscription."""
        return self.durable

    @property
    def timeout_seconds(self) -> float | None:
        """``timeout`` in seconds."""
        return None if self.timeout is None else _seconds(self.timeout)

    @property
    def extend_seconds(self) -> float:
        """``extend_up_to`` in seconds."""
        return _seconds(self.extend_up_to)

    @property
    def outstanding(self) -> int:
        """Most messages this process holds."""
        return self.max_outstanding or max(4 * self.concurrency, 64)

    def spec(self, streams: DomainStreams) -> ConsumerSpec:
        """Return what the broker is asked for.

        Raises:
            HandlerError: No stream keeps a type, or they are kept by several streams.
        """
        try:
            names = {each: streams.stream_for(each).name for each in self.types}
        except UnknownStreamError as error:
            raise self._wrong(str(error)) from error
        if len(set(names.values())) > 1:
            where = ", ".join(f"{each.__qualname__} in {name}" for each, name in names.items())
            raise self._wrong(
                f"its types are kept by several streams ({where}): subscribe for each"
            )
        return ConsumerSpec(
            durable=self.durable,
            stream=next(iter(names.values())),
            subjects=tuple(dict.fromkeys(each.__message__.subject for each in self.types)),
            ack_wait=_seconds(self.ack_wait),
            max_outstanding=self.outstanding,
            max_deliver=self.retry.attempts + _HEADROOM,
            deliver=self.deliver,
            ordered=self.per_key,
        )

    def _wrong(self, problem: str) -> HandlerError:
        return HandlerError(f"subscription of {self.handler.name}: {problem}")


def declared(
    handler: HandlerInfo, given: Sequence[object], durable: str, options: SubscriptionOptions
) -> Subscription:
    """Return the subscription of a handler to the types given, or to those of its annotation.

    Raises:
        HandlerError: Something about it is wrong; says what to do.
    """
    types = message_types(handler.name, given) if given else handler.types
    if not types:
        raise HandlerError(
            f"{handler.name}: to what is it subscribed? Name the classes, as in "
            "@bus.subscribe(CallCompleted, durable=…), or annotate its first parameter with them"
        )
    return Subscription(handler=handler, types=types, durable=durable, **options)


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
