"""The header ``Idempotency-Key``: a request that is sent twice is done once.

Rules after draft-ietf-httpapi-idempotency-key-header: the same key with another request is a
422, one whose first request is still under way a 409, a missing one where it is required a 400.
"""

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.api._documentation import Documentation, document
from common.api._idempotency_store import Claim, StoredResponse
from common.api._state import RequestState, header_values, settings_of, state_of
from common.api._views import HTTPError
from common.context import new_id

logger = logging.getLogger("common.api")

IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
MAX_STORED = 1024 * 1024  # bytes of a response
_HEADER = IDEMPOTENCY_KEY_HEADER.lower().encode()
_KEY = re.compile(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')
_DOCUMENTED = Documentation(
    statuses=(400, 409, 422),
    headers={IDEMPOTENCY_KEY_HEADER: "A new one for each request, the same when it is repeated"},
    pattern=f"^({_KEY.pattern})$",
)
# Who the caller is, unless the application says so: nobody is shown another's answer.
_CREDENTIALS = frozenset({b"authorization", b"cookie", b"x-api-key"})
# These say that the request was not carried out: sending it again is the way out.
_NOT_DONE = frozenset({401, 403, 404, 408, 409, 412, 413, 415, 421, 422, 425, 428, 429})
# Of the connection, or of the very request that is answered.
_NOT_STORED = frozenset({b"connection", b"date", b"set-cookie", b"transfer-encoding"})


class Replay(Exception):  # noqa: N818 - no error: the answer is there already
    """Ends a request whose answer is known; the handler for this exception gives it."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__("the answer to this request is stored already")
        self.response = response


class IdempotencyMiddleware:
    """Keeps the answers of requests that took a key with `idempotent`, and gives them again.

    Stored are answers below 500, apart from those that say that nothing was done (such as 401,
    409, 422, 429), of up to 1 MiB. After any other answer the key is free again. A request that
    was cancelled, or whose client went away, may have had its effect: its key stays taken until
    the claim's time is up. So it does when the store fails; that is logged, and the answer sent.

    The stored answer is the one that left this layer: what is further inside, such as the
    application's own middleware, does not change it a second time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        if scope["type"] != "http" or state is None or not _keys(scope):
            await self.app(scope, receive, send)
            return
        recorder = _Recorder(scope, state, receive, send)
        try:
            await self.app(scope, recorder.receive, recorder.send)
        except ClientDisconnect:
            raise
        except Exception:
            await recorder.give_back()
            raise


class _Recorder:
    def __init__(self, scope: Scope, state: RequestState, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._state = state
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._body: bytearray | None = bytearray()
        self._digest = state.digest = hashlib.sha256()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._digest.update(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        state = self._state
        if state.replay is not None:
            await self._again(state.replay, message)
            return
        if state.claim is not None:
            if message["type"] == "http.response.start":
                self._start = message
            elif message["type"] == "http.response.body":
                self._add(message.get("body", b""))
                if not message.get("more_body", False):
                    claim, state.claim = state.claim, None
                    # Before the last byte: whoever has seen the answer gets it again.
                    try:
                        await self._keep(claim)
                    except Exception as error:  # noqa: BLE001 - it was done: better its answer than none
                        _log_failure(error)
        await self._send(message)

    async def _again(self, stored: StoredResponse, message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in stored.headers}
            more = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            headers = [*stored.headers, *more]
            await self._send({**message, "status": stored.status, "headers": headers})
        elif not message.get("more_body", False):
            await self._send({"type": "http.response.body", "body": stored.body})

    async def give_back(self) -> None:
        state = self._state
        if state.claim is not None:
            claim, state.claim = state.claim, None
            try:
                await self._release(claim)
            except Exception as error:  # noqa: BLE001 - why we are here matters more
                _log_failure(error)

    async def _release(self, claim: Claim) -> None:
        store = settings_of(self._scope).idempotency
        if store is not None:
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
            await self._release(claim)
            return
        headers = tuple(
            (bytes(name), bytes(value))
            for name, value in start.get("headers", ())
            if name.lower() not in _NOT_STORED
        )
        response = StoredResponse(status=status, headers=headers, body=bytes(self._body))
        await store.store(claim, response)


def _log_failure(error: Exception) -> None:
    logger.error(
        "the idempotency store failed: the key stays taken until its time is up", exc_info=error
    )


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


document(get_idempotency_key, replace(_DOCUMENTED, statuses=(400,)))


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
    ``install(app, idempotency=MemoryIdempotencyStore())``; without one every request fails.

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
        state, store = state_of(request.scope), settings_of(request.scope).idempotency
        if state is None or store is None:  # with or without a key: sooner than production
            raise RuntimeError("idempotent() needs a store: install(app, idempotency=...)")
        key = _key(request.scope)
        if key is None:
            if required:
                raise HTTPError(
                    400, "IDEMPOTENCY_KEY_REQUIRED", f"Send the header {IDEMPOTENCY_KEY_HEADER}"
                )
            return
        claim = Claim(
            key=_digest(str(who), request.method, request.scope["path"], key),
            token=new_id(),
            fingerprint=_digest(
                request.scope["query_string"].decode("latin-1"), await _digest_of_body(request)
            ),
        )
        taken = await store.claim(claim)
        if taken is None:
            state.claim = claim
        elif isinstance(taken, StoredResponse):
            state.replay = taken
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

    document(claimed, replace(_DOCUMENTED, required=required))
    return claimed


async def _digest_of_body(request: Request) -> str:
    try:
        body = await request.body()
    except RuntimeError:  # FastAPI has read it already, as a form: to its end
        state = state_of(request.scope)
        if state is None or state.digest is None:
            raise
        return state.digest.hexdigest()
    return hashlib.sha256(body).hexdigest()


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
