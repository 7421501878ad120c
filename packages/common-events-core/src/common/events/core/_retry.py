"""How often, and how far apart, a message is tried."""

import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from common.events.core._outcome import MAX_DELAY


class Backoff(ABC):
    """Seconds between attempts, before jitter."""

    @abstractmethod
    def seconds(self, attempt: int) -> float:
        """Return the seconds after failed attempt number ``attempt``, which counts from 1."""


@dataclass(frozen=True, slots=True)
class Constant(Backoff):
    """The same pause after each attempt.

    Args:
        pause: Seconds.
    """

    pause: float

    def __post_init__(self) -> None:
        _check("pause", self.pause)

    def seconds(self, attempt: int) -> float:  # noqa: ARG002 - the same for all
        """Return the pause."""
        return self.pause


@dataclass(frozen=True, slots=True)
class Exponential(Backoff):
    """Pauses that grow.

    Args:
        first: Seconds after the first attempt.
        maximum: Most seconds.
        factor: By which each pause is longer than the one before.

    Example:
        >>> [Exponential(1, 300).seconds(attempt) for attempt in (1, 2, 3, 10, 10_000)]
        [1.0, 2.0, 4.0, 300.0, 300.0]
    """

    first: float = 1.0
    maximum: float = 300.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        _check("first", self.first)
        _check("maximum", self.maximum)
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise ValueError(f"factor {self.factor}: give a number of at least 1")
        if self.maximum < self.first:
            raise ValueError(f"maximum {self.maximum} is less than first {self.first}")

    def seconds(self, attempt: int) -> float:
        """Return ``first`` times ``factor`` to the power of the attempts before, bounded."""
        try:
            pause = self.first * self.factor ** (attempt - 1)
        except OverflowError:
            return float(self.maximum)
        return float(min(pause, self.maximum))


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed message is tried again, and when it is given up.

    Args:
        attempts: How often a message is handed to the handler at most, at least 1. Deliveries that
            ended without a result count (the process was killed, or stopped before the message's
            turn); of these there may be one more when ``attempts`` is 1.
        backoff: Seconds between attempts.
        jitter: Whether each pause is drawn from zero up to the backoff's ("full jitter"), so that
            what failed together is not tried together.

    Example:
        >>> Retry(attempts=3, backoff=Constant(5), jitter=False).delay(1)
        5.0
    """

    attempts: int = 6
    backoff: Backoff = field(default_factory=Exponential)
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts {self.attempts}: give at least 1, the first attempt")

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number ``attempt``."""
        pause = min(float(self.backoff.seconds(attempt)), MAX_DELAY)
        # Not for secrets.
        return random.uniform(0, pause) if self.jitter else pause  # noqa: S311


def _check(name: str, seconds: float) -> None:
    if not 0 <= seconds <= MAX_DELAY:
        raise ValueError(f"{name} {seconds}: give seconds from 0 to {MAX_DELAY:.0f}")
