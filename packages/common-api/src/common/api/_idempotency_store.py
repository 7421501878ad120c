"""Where idempotency keys and the answers to their requests are kept."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from common.api._checks import number
from common.api._views import HTTPError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """The answer that is given again."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request that took a key.

    Attributes:
        key: Digest of caller, route and key.
        token: Tells this claim from a later one of the same key.
        fingerprint: Digest of the request.
    """

    key: str
    token: str
    fingerprint: str


class IdempotencyStore(Protocol):
    """The port: where keys and answers are kept. Every method is atomic."""

    async def claim(self, claim: Claim, /) -> Claim | StoredResponse | None:
        """Take a key.

        Returns:
            ``None`` if it was free and is the claim's now; the answer if the same request was
            answered; otherwise the claim that has it, whose fingerprint tells whether it is
            the same request, still under way, or another one.
        """
        ...

    async def store(self, claim: Claim, response: StoredResponse, /) -> None:
        """Keep the answer, if the key is still the claim's."""
        ...

    async def release(self, claim: Claim, /) -> None:
        """Give the key back, if it is still the claim's."""
        ...


@dataclass(slots=True)
class _Entry:
    claim: Claim
    response: StoredResponse | None
    expires: float


class MemoryIdempotencyStore:
    """An `IdempotencyStore` within one process, for tests and single instances.

    Args:
        ttl: Seconds that an answer is kept.
        claim_ttl: Seconds after which a claim without an answer is given up, as after a crash.
            Longer than any request takes.
        max_entries: How many keys are kept; beyond, the oldest answers go first. With as many
            requests under way, new ones are refused (503).
        max_bytes: Bytes of all bodies kept; beyond, the oldest answers go first.

    Raises:
        ValueError: If one is no number, or too small.
    """

    def __init__(
        self,
        *,
        ttl: float = 86_400.0,
        claim_ttl: float = 300.0,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        number("ttl", ttl, above=0)
        number("claim_ttl", claim_ttl, above=0)
        number("max_entries", max_entries, least=1)
        number("max_bytes", max_bytes, least=1)
        self._ttl = ttl
        self._claim_ttl = claim_ttl
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def claim(self, claim: Claim, /) -> Claim | StoredResponse | None:
        """Take a key; see `IdempotencyStore.claim`."""
        now = time.monotonic()
        entry = self._entries.get(claim.key)
        if entry is not None and entry.expires > now:
            if entry.response is not None and entry.claim.fingerprint == claim.fingerprint:
                return entry.response
            return entry.claim
        self._drop(claim.key)
        if len(self._entries) >= self._max_entries and not self._drop_oldest(now):
            raise HTTPError(503, "IDEMPOTENCY_STORE_FULL", "Too many requests are under way")
        self._entries[claim.key] = _Entry(claim, None, now + self._claim_ttl)
        return None

    async def store(self, claim: Claim, response: StoredResponse, /) -> None:
        """Keep the answer, if the key is still the claim's."""
        entry = self._entries.get(claim.key)
        if entry is not None and entry.claim.token == claim.token:
            now = time.monotonic()
            if entry.response is not None:
                self._bytes -= len(entry.response.body)
            entry.response = response
            entry.expires = now + self._ttl
            self._entries.move_to_end(claim.key)
            self._bytes += len(response.body)
            while self._bytes > self._max_bytes and self._drop_oldest(now):
                pass

    async def release(self, claim: Claim, /) -> None:
        """Give the key back, if it is still the claim's."""
        entry = self._entries.get(claim.key)
        if entry is not None and entry.claim.token == claim.token:
            self._drop(claim.key)

    def _drop_oldest(self, now: float) -> bool:
        """Forget the oldest answer, or a claim that was given up; return whether there is one."""
        for key, entry in self._entries.items():
            if entry.response is not None or entry.expires <= now:
                self._drop(key)
                return True
        return False

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.response is not None:
            self._bytes -= len(entry.response.body)
