"""How long a relay sleeps, and when writers should wake it."""

import random
from typing import Final

_FIRST_PAUSE: Final = 0.005
_SETTLED: Final = 0.1
_STREAK: Final = 3


class Pace:
    """Decides between work, short naps, and sleep from which writers wake the relay.

    Waking costs writers: transactions that notify commit one after another. So a busy relay tells
    them not to. A transaction that wrote while the relay was busy and commits while it sleeps
    wakes nobody; so after work the relay looks again by itself, after pauses that double. Such a
    transaction thus waits for at most about as long as it took itself, and never longer than the
    poll interval.

    Args:
        poll_interval: Longest sleep in seconds.
    """

    def __init__(self, poll_interval: float) -> None:
        self._longest = poll_interval
        self._pause = _FIRST_PAUSE
        self._streak = 0
        self.announced = True
        """Whether writers wake this relay; a relay starts so."""

    def found(self) -> bool:
        """Note that there was something to do; return whether to stop being woken."""
        self._streak += 1
        if self.announced and self._streak >= _STREAK:
            self.announced = False
            self._pause = _FIRST_PAUSE
            return True
        if not self.announced:
            self._pause = _FIRST_PAUSE
        return False

    def nothing(self) -> bool:
        """Note that there was nothing to do; return whether to be woken from now on.

        If so, look once more before sleeping.
        """
        self._streak = 0
        if not self.announced and self._pause > _SETTLED:
            self.announced = True
            return True
        return False

    def quiet(self) -> bool:
        """Do not be woken for a while; return whether writers have to be told."""
        self._streak = 0
        told, self.announced = self.announced, False
        return told

    def pause(self) -> float:
        """Return the seconds to sleep; each sleep without work between is longer."""
        seconds = min(self._pause, self._longest)
        self._pause = min(self._pause * 2, self._longest)
        return seconds * random.uniform(0.8, 1)  # noqa: S311 - relays should not all come at once
