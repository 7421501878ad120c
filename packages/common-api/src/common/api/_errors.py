"""Every exception becomes the right answer, once, and a line in the log that can be found."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.websockets import WebSocketDisconnect

from common.api._idempotency import Replay, replay
from common.api._report import report
from common.api._route import allowed_methods
from common.api._state import SCOPE_KEY, RequestState, Settings, state_of
from common.api._styles import ErrorRenderer, ErrorView
from common.api._views import view_of
from common.context import DeadlineExceeded, operation
from common.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

_STARTS = frozenset(
    {
        "http.response.start",
        "websocket.accept",
        "websocket.close",
        "websocket.http.response.start",
    }
)


class ErrorMiddleware:
    """Answers what nothing further inside has answered, and logs it.

    To be inside Starlette's ``ServerErrorMiddleware`` and outside of all other middleware, so
    that an `AppError` raised there gets its status, too; `common.api.install` sees to that.

    * Nothing sent yet: the right status and a body in the chosen style. What nobody raised on
      purpose is a 500 which shows an ``error_id`` and nothing else; so are a cancellation that
      nobody asked for, and a return without a response.
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
        settings: Those of an application that may be mounted in another; they hold within.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        renderer: ErrorRenderer | None = None,
        passes: Callable[[], bool] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.app = app
        self._settings = settings
        self._renderer = renderer or ErrorRenderer()
        self._passes = passes or (lambda: False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        state = scope.get(SCOPE_KEY)
        if state is None:
            state = RequestState(self._settings or Settings(), scope)
            receive, send = _watched(receive, send, state)
        outer = state.settings
        state.settings = self._settings or outer
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            state.gone = True  # nobody is there to be answered
        except WebSocketDisconnect:
            pass  # how a conversation ends
        except asyncio.CancelledError as error:
            await self._handle(_unasked(error), scope, receive, send, state)
        except Exception as error:  # noqa: BLE001 - this is where they all end
            await self._handle(_single(error, state), scope, receive, send, state)
        else:
            if not (state.started or state.gone):
                nothing = RuntimeError("the application returned without a response")
                await self._handle(nothing, scope, receive, send, state)
        finally:
            state.settings = outer

    async def _handle(
        self, error: Exception, scope: Scope, receive: Receive, send: Send, state: RequestState
    ) -> None:
        if state.reported is error:
            raise error  # by this layer of a mounted application
        known = view_of(error)
        if known is None and self._passes():
            state.error = error
            raise error
        answered = state.error is error  # by a mounted application's own handler
        websocket = scope["type"] == "websocket"
        view = report(error, known, state, late=state.started and not websocket)
        if websocket:
            await deny(self._renderer, view, scope, receive, send, accepted=state.started)
        elif not state.started:
            await self._renderer.response(view)(scope, receive, send)
        elif state.complete:
            if not answered:
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
        state = state_of(scope) or RequestState(Settings(), scope)
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


def not_found(renderer: ErrorRenderer, inner: ASGIApp) -> ASGIApp:
    """Return what a router asks where it has no route: Starlette just closes websockets."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await inner(scope, receive, send)
            return
        # Not raised: an application's own handler for a 404 may know requests only.
        error = HTTPException(404)
        known = view_of(error)
        view = report(error, known, state_of(scope) or RequestState(Settings(), scope))
        await deny(renderer, view, scope, receive, send, accepted=False)

    return answer


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


def _unasked(error: asyncio.CancelledError) -> Exception:
    """Return what a cancellation is that nobody asked for; raise one that somebody did."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    found = RuntimeError("what the application waited for was cancelled")
    found.__cause__ = error
    return found


def _single(error: Exception, state: RequestState) -> Exception:
    """Return what lies at the bottom of wrappings that say nothing."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    # Starlette wraps what it would have handled, had the response not started.
    cause = error.__cause__
    if state.started and type(error) is RuntimeError and isinstance(cause, Exception):
        return cause if view_of(cause) else error
    return error


def _watched(receive: Receive, send: Send, state: RequestState) -> tuple[Receive, Send]:
    """Keep the state, where `RequestContextMiddleware` does not."""

    async def receiving() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect" and not state.complete:
            state.gone = True
        return message

    async def sending(message: Message) -> None:
        kind = message["type"]
        if kind in _STARTS:
            state.started = True
        elif kind == "http.response.body" and not message.get("more_body", False):
            state.complete = True
        await send(message)

    return receiving, sending
