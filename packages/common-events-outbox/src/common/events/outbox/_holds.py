"""Streams that the broker does not take at the moment."""

import random
import time
from dataclasses import dataclass
from typing import Final

_FIRST_PAUSE: Final = 0.2
_MAX_PAUSE: Final = 5.0


@dataclass(slots=True)
class _Hold:
    until: float
    failures: int


class Holds:
    """Remembers which streams to leave alone, and for how long.

    That is a few seconds at most: all of a stream waits for it, unlike for a message that was
    refused, and a look costs one small batch.
    """

    def __init__(self) -> None:
        self._held: dict[str, _Hold] = {}

    @property
    def streams(self) -> list[str]:
        """All that are held back."""
        return list(self._held)

    def due(self) -> list[str]:
        """Return those that should be tried again."""
        now = time.monotonic()
        return [stream for stream, hold in self._held.items() if hold.until <= now]

    def wait(self) -> float:
        """Return the seconds until one is due; infinite when none is held."""
        until = min((hold.until for hold in self._held.values()), default=float("inf"))
        return until - time.monotonic()

    def hold(self, stream: str) -> None:
        """Leave a stream alone, longer each time."""
        failures = self._held[stream].failures + 1 if stream in self._held else 0
        pause = min(_MAX_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 16))
        until = time.monotonic() + random.uniform(pause / 2, pause)  # noqa: S311
        self._held[stream] = _Hold(until, failures)

    def free(self, stream: str) -> None:
        """The broker takes it."""
        self._held.pop(stream, None)

    def clear(self) -> None:
        """Whether the broker takes any is for others to find out."""
        self._held.clear()
