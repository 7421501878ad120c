"""The header ``Idempotency-Key``: a request that is sent twice is done once.

Rules after draft-ietf-httpapi-idempotency-key-header: the same key with another request is a
422, one whose first request is still under way a 409, a missing one where it is required a 400.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.api._state import header_values, settings_of, state_of
from common.api._views import HTTPError
from common.context import new_id

IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
MAX_STORED = 1024 * 1024  # bytes of a response
_HEADER = IDEMPOTENCY_KEY_HEADER.lower().encode()
_KEY = re.compile(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')
# Who the caller is, unless the application says so: nobody is shown another's answer.
_CREDENTIALS = frozenset({b"authorization", b"cookie", b"x-api-key"})
# These say that the request was not carried out: sending it again is the way out.
_NOT_DONE = frozenset({401, 403, 404, 408, 409, 412, 413, 415, 421, 422, 425, 428, 429})
# Of the connection, or of the very request that is answered.
_NOT_STORED = frozenset({b"connection", b"date", b"set-cookie", b"transfer-encoding"})


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
    """

    def __init__(
        self,
        *,
        ttl: float = 86_400.0,
        claim_ttl: float = 300.0,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        if ttl <= 0 or claim_ttl <= 0 or max_entries < 1 or max_bytes < 1:
            raise ValueError("ttl, claim_ttl, max_entries and max_bytes: give numbers above 0")
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


class Replay(Exception):  # noqa: N818 - no error: the answer is there already
    """Ends a request whose answer is known; the handler for this exception gives it."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__("the answer to this request is stored already")
        self.response = response


class IdempotencyMiddleware:
    """Keeps the answers of requests that took a key with `idempotent`, and gives them again.

    Stored are answers below 500, apart from those that say that nothing was done (such as 401,
    409, 422, 429), of up to 1 MiB. After any other answer the key is free again. A request that
    was cancelled may have had its effect: its key stays taken until the claim's time is up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        if scope["type"] != "http" or state is None or not _keys(scope):
            await self.app(scope, receive, send)
            return
        recorder = _Recorder(scope, send)
        try:
            await self.app(scope, receive, recorder.send)
        except Exception:
            await recorder.give_back()
            raise


class _Recorder:
    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._start: Message | None = None
        self._body: bytearray | None = bytearray()

    async def send(self, message: Message) -> None:
        state = state_of(self._scope)
        if state is not None and state.claim is not None:
            if message["type"] == "http.response.start":
                self._start = message
            elif message["type"] == "http.response.body":
                self._add(message.get("body", b""))
                if not message.get("more_body", False):
                    claim, state.claim = state.claim, None
                    # Before the last byte: whoever has seen the answer gets it again.
                    await self._keep(claim)
        await self._send(message)

    async def give_back(self) -> None:
        state = state_of(self._scope)
        store = settings_of(self._scope).idempotency
        if state is not None and store is not None and state.claim is not None:
            claim, state.claim = state.claim, None
            await store.release(claim)

    def _add(self, body: bytes) -> None:
        if self._body is not None:
            self._body += body
            if len(self._body) > MAX_STORED:
                self._body = None

    async def _keep(self, claim: Claim) -> None:
        store = settings_of(self._scope).idempotency
        start = self._start
        if store is None or start is None:
            return
        status = start["status"]
        if status >= 500 or status in _NOT_DONE or self._body is None:
            await store.release(claim)
            return
        headers = tuple(
            (bytes(name), bytes(value))
            for name, value in start.get("headers", ())
            if name.lower() not in _NOT_STORED
        )
        response = StoredResponse(status=status, headers=headers, body=bytes(self._body))
        await store.store(claim, response)


async def replay(_request: Request, error: Replay) -> Response:
    """Answer with what is stored."""
    stored = error.response
    response = Response(status_code=stored.status)
    response.body = stored.body
    response.raw_headers = [*stored.headers, (REPLAYED_HEADER.lower().encode(), b"true")]
    return response


async def get_idempotency_key(request: Request) -> str | None:
    """Return the request's key, without doing anything with it: `IdempotencyKeyDep`.

    Raises:
        HTTPError: If there is more than one, or it is malformed (400).
    """
    return _key(request.scope)


def credentials(request: Request) -> str:
    """Return a digest of ``Authorization``, ``X-API-Key`` and cookies."""
    digest = hashlib.sha256()
    for name, value in sorted(request.scope["headers"]):
        if name in _CREDENTIALS:
            digest.update(b"%d:%b%d:%b" % (len(name), name, len(value), value))
    return digest.hexdigest()


def idempotent(
    *, required: bool = False, identity: Callable[..., Any] = credentials
) -> Callable[..., Awaitable[None]]:
    """Return a dependency with which a route's handler runs once for each key.

    Without the header the handler just runs. The application needs a store:
    ``install(app, idempotency=MemoryIdempotencyStore())``.

    Args:
        required: Whether a request without a key is a 400.
        identity: A dependency that returns who the caller is; keys of different callers have
            nothing to do with each other. By default that is a digest of the credentials sent:
            with tokens that are renewed, give the user's id, or a repetition with a new token
            counts as another caller's. It runs first: whoever it refuses is shown nothing.

    Example:
        >>> once = Depends(idempotent())
        >>> # @app.post("/orders", dependencies=[once])
    """

    async def claimed(request: Request, who: Any = Depends(identity)) -> None:  # noqa: B008
        key = _key(request.scope)
        if key is None:
            if required:
                raise HTTPError(
                    400, "IDEMPOTENCY_KEY_REQUIRED", f"Send the header {IDEMPOTENCY_KEY_HEADER}"
                )
            return
        state, store = state_of(request.scope), settings_of(request.scope).idempotency
        if state is None or store is None:
            raise RuntimeError("idempotent() needs a store: install(app, idempotency=...)")
        claim = Claim(
            key=_digest(str(who), request.method, request.scope["path"], key),
            token=new_id(),
            fingerprint=hashlib.sha256(
                request.scope["query_string"] + b"\n" + await request.body()
            ).hexdigest(),
        )
        taken = await store.claim(claim)
        if taken is None:
            state.claim = claim
        elif isinstance(taken, StoredResponse):
            raise Replay(taken)
        elif taken.fingerprint == claim.fingerprint:
            raise HTTPError(
                409,
                "IDEMPOTENT_REQUEST_IN_PROGRESS",
                "The first request with this key is still under way",
                headers={"Retry-After": "1"},
            )
        else:
            raise HTTPError(
                422,
                "IDEMPOTENCY_KEY_REUSED",
                "The key was used for another request: make a new one for each",
            )

    return claimed


def _keys(scope: Scope) -> list[str]:
    return header_values(scope["headers"], _HEADER)


def _key(scope: Scope) -> str | None:
    values = _keys(scope)
    if not values:
        return None
    matched = _KEY.fullmatch(values[0].strip())
    if len(values) > 1 or not matched:
        raise HTTPError(
            400,
            "IDEMPOTENCY_KEY_INVALID",
            f"{IDEMPOTENCY_KEY_HEADER}: send one, of 1 to 255 visible ASCII characters",
        )
    return matched[1] or matched[2]


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(text), text))
    return digest.hexdigest()


IdempotencyKeyDep = Annotated[str | None, Depends(get_idempotency_key)]
