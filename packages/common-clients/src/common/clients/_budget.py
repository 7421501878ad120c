"""How many of the calls may be repetitions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from common.clients._checks import finite
from common.clients._window import Window

if TYPE_CHECKING:
    from collections.abc import Callable


class RetryBudget:
    """Lets only a share of the calls be retried, so that retries never multiply an outage.

    Attempts alone bound what one call does; with three of them, a failing service gets three
    times its load. The budget bounds all calls together: over ``window`` seconds at most
    ``ratio`` times the calls plus ``min_per_second`` times the window are repeated. The rule is
    that of Finagle's `RetryBudget`_ (whose default is 20 % and 10 a second); Envoy's
    ``retry_budget`` and gRPC's retry throttling (`gRFC A6`_) serve the same purpose.

    One budget belongs to one dependency: share it between everything that calls it. It lives in
    one process and one event loop. Time and memory per call are constant.

    .. _RetryBudget: https://finagle.github.io/blog/2016/02/08/retry-budgets
    .. _gRFC A6: https://github.com/grpc/proposal/blob/master/A6-client-retries.md

    Args:
        ratio: Share of calls that may be repeated; 0.1 adds at most 10 % of load.
        min_per_second: Retries per second that are allowed however few calls there are.
        window: Seconds over which calls and retries are counted.
        clock: Seconds that never go back, for tests.

    Raises:
        ValueError: If a number is negative or not finite.

    Example:
        >>> budget = RetryBudget(ratio=0.5, min_per_second=0)
        >>> budget.withdraw()
        False
        >>> budget.deposit()
        >>> budget.deposit()
        >>> budget.withdraw(), budget.withdraw()
        (True, False)
    """

    __slots__ = ("_ratio", "_reserve", "_window")

    def __init__(
        self,
        *,
        ratio: float = 0.1,
        min_per_second: float = 3.0,
        window: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        finite("ratio", ratio)
        finite("min_per_second", min_per_second)
        finite("window", window, above=0)
        self._ratio = ratio
        self._reserve = min_per_second * window
        self._window = Window(window, 2, clock)

    @property
    def balance(self) -> float:
        """How many retries are allowed now."""
        calls, retries = self._window.read()
        return max(self._reserve + self._ratio * calls - retries, 0.0)

    def deposit(self) -> None:
        """Count a call; not its repetitions."""
        self._window.add(0)

    def withdraw(self) -> bool:
        """Take one retry if there is one left, and tell whether there was."""
        if self.balance < 1:
            return False
        self._window.add(1)
        return True

    def __repr__(self) -> str:
        return f"RetryBudget(balance={self.balance:.1f})"
