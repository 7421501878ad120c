"""The outermost layer: ids, trace and the operation of every request."""

from __future__ import annotations

import logging
from asyncio import current_task
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from common.api._causes import in_one_line
from common.api._proxies import TrustedProxies, peer_of
from common.api._state import SCOPE_KEY, RequestState, Settings, ids
from common.context import Context, bind, current, extract, new_id, new_trace, operation, valid_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    InboundIds: TypeAlias = bool | Iterable[str] | Callable[[Scope], bool]

logger = logging.getLogger("common.api")

_READ = frozenset({b"x-request-id", b"x-correlation-id", b"traceparent", b"tracestate", b"baggage"})
_TRACE_ONLY = frozenset({b"traceparent", b"tracestate"})
_WRITTEN = frozenset(
    {b"x-request-id", b"x-correlation-id", b"traceparent", b"x-trace-id", b"x-service-name"}
)
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_BODIES = frozenset(
    {"http.response.body", "http.response.pathsend", "websocket.http.response.body"}
)


class RequestContextMiddleware:
    """Binds the context of each request, puts its ids on the response, reports one operation.

    To be the outermost layer, outside of Starlette's ``ServerErrorMiddleware``, so that also
    the answer to an unhandled exception carries the ids; `common.api.install` sees to that.
    It acts on HTTP and websockets (headers of the accepted or denied handshake), and once only
    where a mounted application has it, too.

    The operation is of kind ``http.server`` and named by method and route template
    (``GET /orders/{id}``), never by the path. It ends with the last byte of the response:
    background tasks are not part of it. A response with status 500 or above makes its outcome
    ``error``; a client that goes away before the end of the response makes it ``cancelled``.

    Args:
        app: What it wraps.
        service: This service's name, for ``X-Service-Name`` and the context.
        request_id: Whose ids and baggage are taken over: ``True``, everybody's (after
            validation: one header, ``[A-Za-z0-9._-]``, 1 to 128 characters); ``False``,
            nobody's; networks such as ``["10.0.0.0/8"]``, those of direct peers in them; or a
            function of the scope. All others get new ids. A valid ``traceparent`` is continued
            in any case, as W3C Trace Context has it.
        settings: What other parts of the stack need to know.

    Raises:
        ValueError: If the service's name could not be a header, or a network is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str | None = None,
        request_id: InboundIds = True,
        settings: Settings | None = None,
    ) -> None:
        if service is not None and not valid_id(service):
            raise ValueError(f"service={service!r}: use 1 to 128 letters, digits, '.', '_', '-'")
        self.app = app
        self.settings = settings or Settings(service=service)
        self._service = service
        self._named = [] if service is None else [(b"x-service-name", service.encode())]
        self._believes = _rule(request_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if (kind not in ("http", "websocket")) or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        with bind(self._context(scope)) as context:
            exchange = _Exchange(self, scope, receive, send, context=context)
            try:
                await self.app(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                exchange.gone = True
            except BaseException as error:
                exchange.finish(error)
                raise
            finally:
                exchange.finish()
                # They hold each other: without this all of the request waits for a collection.
                scope.pop(SCOPE_KEY, None)

    def _context(self, scope: Scope) -> Context:
        headers = [pair for pair in scope["headers"] if pair[0] in _READ]
        if headers:
            if self._believes is not True and not (self._believes and self._believes(scope)):
                headers = [pair for pair in headers if pair[0] in _TRACE_ONLY]
            return extract(headers).replace(service=self._service)
        request_id = new_id()
        return Context(
            request_id=request_id,
            correlation_id=request_id,
            trace=new_trace(),
            service=self._service,
        )

    def headers(self, context: Context) -> list[tuple[bytes, bytes]]:
        """Return the headers that every response carries."""
        request_id, correlation_id = context.request_id, context.correlation_id
        trace = context.trace or new_trace()
        written = _bytes(request_id)
        return [
            (b"x-request-id", written),
            (
                b"x-correlation-id",
                written if correlation_id is request_id else _bytes(correlation_id),
            ),
            (b"traceparent", trace.traceparent.encode()),
            (b"x-trace-id", trace.trace_id.encode()),
            *self._named,
        ]


def _bytes(text: str | None) -> bytes:
    return (text or "").encode()


class _Exchange(RequestState):
    """One request and its response, on their way through."""

    _ended = False
    status: int | None = None

    def __init__(
        self,
        layer: RequestContextMiddleware,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        context: Context,
    ) -> None:
        super().__init__(layer.settings, scope, layer.app)
        self._receive = receive
        self._send = send
        self._task = current_task()
        op = self._op = operation("http.server", self.method)
        if op.recording:
            op.__enter__()
            context = current()  # an observer may have made a span of its own
        # Here and not when the response starts: that may happen in a task with another context.
        self._headers = layer.headers(context)
        scope[SCOPE_KEY] = self

    async def receive(self) -> Message:
        try:
            message = await self._receive()
        finally:
            # A stream's last byte is sent by a task of its own, while this one waits here for a
            # disconnect; what it goes on with are background tasks.
            if self.complete and current_task() is self._task:
                self.finish()
        if message["type"] == "http.disconnect" and not self.complete:
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in _STARTS:
            self.started = True
            self.status = message.get("status", 101)
            given = message.get("headers") or ()
            headers = [pair for pair in given if pair[0].lower() not in _WRITTEN]
            headers += self._headers
            await self._send({**message, "headers": headers})
        elif kind in _BODIES and not message.get("more_body", False):
            self.complete = True
            await self._send(message)
            # Observers undo in the task where they began what they did there.
            if current_task() is self._task:
                self.finish()
        elif kind == "websocket.close" and not self.started:
            await self._deny(message)
        else:
            await self._send(message)

    async def _deny(self, message: Message) -> None:
        """Refuse the handshake; with the ids where the server can (ASGI's denial response)."""
        self.started = True
        self.status = 403
        if not self.refused:
            reason = message.get("reason") or "closed before it was accepted"
            logger.info(
                "websocket refused: %s, request_id=%s: %s",
                self.name(),
                current().request_id,
                in_one_line(reason),
                extra=ids(),
            )
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self._send(message)
            return
        headers = [(b"content-length", b"0"), *self._headers]
        await self._send(
            {"type": "websocket.http.response.start", "status": 403, "headers": headers}
        )
        await self._send({"type": "websocket.http.response.body", "body": b""})

    def finish(self, error: BaseException | None = None) -> None:
        """End the operation; only the first time counts."""
        if self._ended:
            return
        self._ended = True
        op = self._op
        if not op.recording:
            return
        template = self.template()
        op.name = f"{self.method} {template}"
        attributes = op.attributes
        attributes["http.route"] = template
        if self.method == "WS":
            attributes["http.request.method"] = "GET"
            attributes["network.protocol.name"] = "websocket"
        else:
            attributes["http.request.method"] = self.method
        if self.status is not None:
            attributes["http.response.status_code"] = self.status
        failed = self.error is not None or (self.status is not None and self.status >= 500)
        if self.gone and error is None:
            op.cancel()
        elif failed and error is None:
            code = getattr(self.error, "code", None)
            op.fail(code if isinstance(code, str) else None, error=self.error)
        op.__exit__(None if error is None else type(error), error, None)


def _rule(trusted: InboundIds) -> bool | Callable[[Scope], bool]:
    if isinstance(trusted, bool):
        return trusted
    if callable(trusted):
        return _safely(trusted)
    try:
        proxies = TrustedProxies(trusted)
    except TypeError:
        raise ValueError(
            f"request_id={trusted!r}: give True, False, networks, or a function of the scope"
        ) from None
    return lambda scope: proxies.trusts(peer_of(scope))


def _safely(rule: Callable[[Scope], bool]) -> Callable[[Scope], bool]:
    def believes(scope: Scope) -> bool:
        try:
            return rule(scope)
        except Exception:
            logger.exception("the function given as request_id= failed; the ids are made anew")
            return False

    return believes
