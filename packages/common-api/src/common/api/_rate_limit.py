"""A port for rate limits, and the dependency that asks it."""

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Protocol

from fastapi import Request, Response

from common.api._checks import is_async, number, port
from common.api._depends import client_ip
from common.api._documentation import Documentation, document
from common.context import operation
from common.errors import RateLimitedError, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitDecision:
    """What a limiter says of one request.

    Attributes:
        allowed: Whether it may go on.
        limit: Requests allowed in a window.
        remaining: How many of them are left.
        reset_after: Seconds until there are more.
        window: The window in seconds.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    window: float


class RateLimiter(Protocol):
    """The port: counts in this process, in Redis, anywhere."""

    async def hit(self, key: str, /) -> RateLimitDecision:
        """Count one request of whoever ``key`` is, and decide."""
        ...


class MemoryRateLimiter:
    """A `RateLimiter` within one process: fixed windows, for tests and single instances.

    Args:
        limit: Requests allowed in a window, at least 1.
        window: Seconds.
        max_keys: How many callers are remembered; beyond, whoever came longest ago is forgotten.

    Raises:
        ValueError: If one is no number, or too small.
    """

    def __init__(self, *, limit: int, window: float, max_keys: int = 10_000) -> None:
        number("limit", limit, least=1)
        number("window", window, above=0)
        number("max_keys", max_keys, least=1)
        self._limit = limit
        self._window = window
        self._max_keys = max_keys
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    async def hit(self, key: str, /) -> RateLimitDecision:
        """Count one request of whoever ``key`` is, and decide."""
        now = time.monotonic()
        start, count = self._counts.pop(key, (now, 0))
        if now - start >= self._window:
            start, count = now, 0
        allowed = count < self._limit
        count += allowed
        self._counts[key] = (start, count)
        while len(self._counts) > self._max_keys:
            self._counts.popitem(last=False)
        return RateLimitDecision(
            allowed=allowed,
            limit=self._limit,
            remaining=self._limit - count,
            reset_after=max(start + self._window - now, 0.0),
            window=self._window,
        )


class _RefusedError(RateLimitedError):
    """Carries its headers to the response."""

    headers: dict[str, str] | None = field(default=None, public=False)


def by_client_ip(request: Request) -> str:
    """Return the client's address as the key of a rate limit; of IPv6 the network (/64).

    Whoever has one IPv6 address has all of its network (RFC 6177, section 2).
    """
    address = client_ip(request) or "unknown"
    return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address


def rate_limit(
    limiter: RateLimiter, *, key: Callable[[Request], str] = by_client_ip
) -> Callable[[Request, Response], Awaitable[None]]:
    """Return a dependency that lets only as many requests through as a limiter allows.

    Answers say ``RateLimit-Limit``, ``RateLimit-Remaining`` and ``RateLimit-Reset`` (seconds);
    a refusal is a 429 with ``Retry-After``.

    Args:
        limiter: Who counts.
        key: Plain function that says who is counted; by default the client's address. What it
            cannot tell apart shares one count; what has to be awaited goes into a dependency.

    Raises:
        TypeError: If the limiter has no ``hit``, or the key is no plain function.

    Example:
        >>> limited = rate_limit(MemoryRateLimiter(limit=100, window=60.0))
        >>> # @app.get("/orders", dependencies=[Depends(limited)])
    """
    port("limiter", limiter, ("hit",), "MemoryRateLimiter(limit=100, window=60.0)")
    chosen: object = key
    if not callable(chosen) or is_async(chosen):
        raise TypeError(
            f"key={key!r}: give a plain function of the request that returns a str; await in a "
            "dependency, which leaves what it found in request.state"
        )

    async def limited(request: Request, response: Response) -> None:
        who: object = key(request)
        if not isinstance(who, str):  # each of anything else may be a caller of its own
            raise TypeError(f"rate_limit(key=...) returned a {type(who).__name__}: return a str")
        with operation("rate_limit", "http") as op:
            decision = await limiter.hit(who)
            op.set(allowed=decision.allowed)
        reset = str(math.ceil(decision.reset_after))
        headers = {
            "RateLimit-Limit": str(decision.limit),
            "RateLimit-Remaining": str(decision.remaining),
            "RateLimit-Reset": reset,
        }
        if not decision.allowed:
            raise _RefusedError(
                limit=decision.limit,
                window=f"{decision.window:g}s",
                retry_after=decision.reset_after,
                headers=headers,
            )
        response.headers.update(headers)

    document(limited, Documentation(statuses=(429,), headers={}))
    return limited
