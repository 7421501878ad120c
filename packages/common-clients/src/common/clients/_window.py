"""Sums over the most recent seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKETS = 10


class Window:
    """Counters over a sliding window, in ten buckets: bounded memory and work.

    What happened is forgotten a bucket at a time, after at least nine tenths of the window and
    at most all of it.

    Args:
        seconds: Length of the window.
        counters: How many sums are kept.
        clock: Seconds that never go back.
    """

    __slots__ = ("_buckets", "_clock", "_position", "_width", "totals")

    def __init__(self, seconds: float, counters: int, clock: Callable[[], float]) -> None:
        self._width = seconds / BUCKETS
        self._clock = clock
        self._buckets = [[0] * counters for _ in range(BUCKETS)]
        self._position = int(clock() / self._width)
        self.totals = [0] * counters

    def add(self, *counters: int, now: float | None = None) -> list[int]:
        """Count one for each of the given counters; return all sums.

        Args:
            *counters: Their numbers.
            now: What the clock says, if that is known.
        """
        bucket = self._advance(self._clock() if now is None else now)
        totals = self.totals
        for counter in counters:
            bucket[counter] += 1
            totals[counter] += 1
        return totals

    def read(self) -> list[int]:
        """Return the sums, as they are now."""
        self._advance(self._clock())
        return self.totals

    def clear(self) -> None:
        """Forget everything."""
        for sums in (self.totals, *self._buckets):
            sums[:] = [0] * len(sums)

    def _advance(self, now: float) -> list[int]:
        position = int(now / self._width)
        passed = position - self._position
        if passed > 0:
            for old in range(self._position + 1, self._position + 1 + min(passed, BUCKETS)):
                bucket = self._buckets[old % BUCKETS]
                for counter, count in enumerate(bucket):
                    self.totals[counter] -= count
                    bucket[counter] = 0
            self._position = position
        return self._buckets[self._position % BUCKETS]
