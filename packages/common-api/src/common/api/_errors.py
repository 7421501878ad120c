"""Every exception becomes the right answer, once, and a line in the log that can be found."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.websockets import WebSocketDisconnect

from common.api._idempotency import Replay, replay
from common.api._route import allowed_methods
from common.api._state import SCOPE_KEY, RequestState, Settings, state_of
from common.api._styles import ErrorRenderer, ErrorView
from common.api._views import view_of
from common.context import DeadlineExceeded, current, new_id, operation
from common.errors import AppError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send


logger = logging.getLogger("common.api")


class ErrorMiddleware:
    """Answers what nothing further inside has answered, and logs it.

    To be inside Starlette's ``ServerErrorMiddleware`` and outside of all other middleware, so
    that an `AppError` raised there gets its status, too; `common.api.install` sees to that.

    * Nothing sent yet: the right status and a body in the chosen style. What nobody raised on
      purpose is a 500 which shows an ``error_id`` and nothing else.
    * In the middle of a response: logged, then raised again, so that the server breaks the
      connection off and the client cannot take half an answer for a whole one.
    * After the response, as in a background task: logged, and reported as a failed operation.
    * On a websocket: the handshake is denied with status and body where the server can (ASGI's
      denial response), and otherwise, or after it, closed with 1008 (the caller's fault) or
      1011.

    Args:
        app: What it wraps.
        renderer: How errors look.
        passes: Asked before an exception nobody raised on purpose is answered; ``True`` leaves
            it to Starlette, which has debug pages and an application's own handler.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        renderer: ErrorRenderer | None = None,
        passes: Callable[[], bool] | None = None,
    ) -> None:
        self.app = app
        self._renderer = renderer or ErrorRenderer()
        self._passes = passes or (lambda: False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        state = scope.get(SCOPE_KEY)
        if state is None:
            state = RequestState(Settings())
            send = _watched(send, state)
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            state.gone = True  # nobody is there to be answered
        except WebSocketDisconnect:
            pass  # how a conversation ends
        except Exception as error:  # noqa: BLE001 - this is where they all end
            await self._handle(_single(error, state), scope, receive, send, state)

    async def _handle(
        self, error: Exception, scope: Scope, receive: Receive, send: Send, state: RequestState
    ) -> None:
        known = view_of(error)
        if known is None and self._passes():
            state.error = error
            raise error
        view = report(error, known, state)
        if scope["type"] == "websocket":
            await deny(self._renderer, view, scope, receive, send, accepted=state.started)
        elif not state.started:
            await self._renderer.response(view)(scope, receive, send)
        elif state.complete:
            with operation("internal", "background") as op:
                op.fail(view.code, error=error)
        else:
            raise error


def exception_handlers(renderer: ErrorRenderer) -> dict[type[Exception], ExceptionHandler]:
    """Return handlers for ``app.exception_handlers``, for what is raised on purpose.

    They answer further inside than `ErrorMiddleware`, so that an application's own middleware
    sees a response, as on bare Starlette.
    """

    async def handle(connection: HTTPConnection, error: Exception) -> Response | None:
        known = view_of(error)
        if known is None:
            raise error
        scope = connection.scope
        if known.status == 405 and "Allow" in known.headers:
            allowed = ", ".join(sorted(allowed_methods(scope))) or known.headers["Allow"]
            known = replace(known, headers={**known.headers, "Allow": allowed})
        state = state_of(scope)
        view = report(error, known, state)
        if scope["type"] != "websocket":
            return renderer.response(view)
        websocket: Any = connection
        await deny(
            renderer, view, scope, websocket.receive, websocket.send, accepted=_accepted(websocket)
        )
        return None

    async def refuse(websocket: Any, _error: Exception) -> None:
        # FastAPI's own handler sends the submitted values back as the reason.
        logger.info("websocket refused: not valid", extra=ids())
        with suppress(RuntimeError):
            await websocket.close(code=1008, reason="The request is not valid")

    handlers = {
        AppError: handle,
        DeadlineExceeded: handle,
        Replay: replay,
        HTTPException: handle,
        RequestValidationError: handle,
        WebSocketRequestValidationError: refuse,
    }
    # Starlette's type has handlers of requests or of websockets, not of both.
    return cast("dict[type[Exception], ExceptionHandler]", handlers)


def report(error: BaseException, known: ErrorView | None, state: RequestState | None) -> ErrorView:
    """Log an error, and return what its caller may see."""
    if known is None:
        known = view_of(InternalError(error_id=new_id()))
        assert known is not None  # noqa: S101 - an InternalError always has a view
    if known.status < 500:
        logger.info("request refused: %d %s", known.status, known.code, extra=ids(code=known.code))
        return known
    if state is not None:
        state.error = error
    view = known if known.error_id else replace(known, error_id=new_id())
    when = "" if state is None or not state.started else ", after the response had started"
    logger.error(
        "request failed: %d %s, error_id=%s, request_id=%s%s",
        view.status,
        view.code,
        view.error_id,
        current().request_id,
        when,
        exc_info=error,
        extra=ids(code=view.code, error_id=view.error_id),
    )
    return view


def ids(**more: str | None) -> dict[str, str | None]:
    """Return what a log record carries besides its message."""
    context = current()
    return {
        "request_id": context.request_id,
        "correlation_id": context.correlation_id,
        "trace_id": context.trace.trace_id if context.trace else None,
        **{f"error_{name.removeprefix('error_')}": value for name, value in more.items()},
    }


async def deny(
    renderer: ErrorRenderer,
    view: ErrorView,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    accepted: bool,
) -> None:
    """End a websocket, before or after its handshake."""
    if not accepted and "websocket.http.response" in (scope.get("extensions") or {}):
        await renderer.response(view)(scope, receive, send)
        return
    code = 1011 if view.status >= 500 else 1008
    # A reason has at most 123 bytes (RFC 6455, section 5.5). Closed already: fine.
    with suppress(RuntimeError):
        await send({"type": "websocket.close", "code": code, "reason": view.code[:100]})


def _accepted(websocket: Any) -> bool:
    return bool(websocket.application_state.value)


def _single(error: Exception, state: RequestState) -> Exception:
    """Return what lies at the bottom of wrappings that say nothing."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    # Starlette wraps what it would have handled, had the response not started.
    cause = error.__cause__
    if state.started and type(error) is RuntimeError and isinstance(cause, Exception):
        return cause if view_of(cause) else error
    return error


def _watched(send: Send, state: RequestState) -> Send:
    async def watched(message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept", "websocket.close"):
            state.started = True
        elif kind == "http.response.body" and not message.get("more_body", False):
            state.complete = True
        await send(message)

    return watched
