"""One call that sets everything up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Host, Mount

from common.api._checks import number, port, switch
from common.api._deadline import DeadlineMiddleware
from common.api._decompress import DecompressMiddleware
from common.api._errors import ErrorMiddleware, exception_handlers, not_found
from common.api._health import Health
from common.api._hosts import TrustedHostsMiddleware
from common.api._idempotency import IdempotencyMiddleware
from common.api._ids import RequestContextMiddleware
from common.api._limits import Limits, LimitsMiddleware
from common.api._openapi import document_errors
from common.api._probes import MetricsSource, ProbesMiddleware
from common.api._proxies import TrustedProxies
from common.api._security import Cors, SecurityHeadersMiddleware
from common.api._state import Settings
from common.api._styles import ErrorRenderer, ErrorStyle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from common.api._idempotency_store import IdempotencyStore
    from common.api._ids import InboundIds

_INSTALLED = "_common_api"
MAX_MIDDLEWARE = 32  # around a mounted application
_FASTAPIS = (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)


def install(
    app: FastAPI,
    *,
    service: str,
    version: str | None = None,
    request_id: InboundIds = True,
    errors: ErrorStyle = "envelope",
    problem_types: str | None = None,
    health: Health | None = None,
    metrics: MetricsSource | None = None,
    proxies: TrustedProxies | Iterable[str] = (),
    limits: Limits | None = Limits(),  # noqa: B008 - frozen
    deadline: float | None = 300.0,
    default_deadline: float | None = None,
    hosts: Sequence[str] | None = None,
    security_headers: bool = True,
    cors: Cors | None = None,
    decompress: bool = False,
    idempotency: IdempotencyStore | None = None,
) -> None:
    """Give a FastAPI application the conventions of all services.

    From the outside in: context and ids, Starlette's ``ServerErrorMiddleware``, CORS, security
    headers, errors, probes, hosts, limits, decompression, deadline, idempotency, then the
    application's own middleware. Applications mounted when the first request comes get the same
    errors.

    Args:
        app: The application, before its first request.
        service: This service's name: ``[A-Za-z0-9._-]``, 1 to 128 characters.
        version: This service's version, for ``/health``.
        request_id: Whose ids are taken over; see `RequestContextMiddleware`.
        errors: ``"envelope"`` or ``"problem"``; see `ErrorRenderer`.
        problem_types: Base of the problems' types; see `ErrorRenderer`.
        health: The checks of ``/readyz``, and the drain; see `Health`.
        metrics: Where ``/metrics`` comes from; see `ProbesMiddleware`.
        proxies: The reverse proxies in front; see `TrustedProxies`.
        limits: Bounds for requests; ``None`` for none.
        deadline: Longest deadline a caller may set, in seconds; ``None`` ignores callers'.
        default_deadline: Seconds for requests without one; needs ``deadline``.
        hosts: Host names that are answered; all by default, for services that only a gateway
            reaches.
        security_headers: Whether answers carry them; see `SecurityHeadersMiddleware`.
        cors: Which pages may call; none of other origins by default.
        decompress: Whether bodies may come compressed; see `DecompressMiddleware`.
        idempotency: Where answers are kept for `idempotent`.

    Raises:
        RuntimeError: If it was installed before, or the application has started.
        ValueError: If an argument cannot be; see there.
        TypeError: If an argument is of another kind than it has to be.
    """
    _check_app(app)
    given: object = service
    if not isinstance(given, str):
        raise TypeError(f"service={given!r}: give this service's name, such as 'orders'")
    if default_deadline is not None and deadline is None:
        raise ValueError("default_deadline needs deadline, the longest one allowed")
    for name, seconds in (("deadline", deadline), ("default_deadline", default_deadline)):
        if seconds is not None:
            number(name, seconds, above=0)
    switch("security_headers", security_headers)
    switch("decompress", decompress)
    for name, value, kind in (
        ("health", health, Health),
        ("limits", limits, Limits),
        ("cors", cors, Cors),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name}={value!r}: give a {kind.__name__}(...), or None")
    if idempotency is not None:
        methods = ("claim", "store", "release")
        port("idempotency", idempotency, methods, "MemoryIdempotencyStore()")
    trusted = proxies if isinstance(proxies, TrustedProxies) else TrustedProxies(proxies)
    renderer = ErrorRenderer(errors, problem_types=problem_types)
    settings = Settings(
        service=service, proxies=trusted, idempotency=idempotency, renderer=renderer
    )

    stack = [
        # Outside of the errors, which pages must be able to read, too.
        cors and cors.middleware(),
        security_headers and Middleware(SecurityHeadersMiddleware, proxies=trusted),
        Middleware(ErrorMiddleware, renderer=renderer, passes=_passing(app), settings=settings),
        Middleware(
            ProbesMiddleware, health=health, metrics=metrics, service=service, version=version
        ),
        hosts is not None and Middleware(TrustedHostsMiddleware, hosts=hosts, proxies=trusted),
        limits and Middleware(LimitsMiddleware, limits=limits),
        decompress and Middleware(DecompressMiddleware),
        deadline is not None
        and Middleware(DeadlineMiddleware, longest=deadline, default=default_deadline),
        idempotency is not None and Middleware(IdempotencyMiddleware),
    ]
    chosen = [each for each in stack if isinstance(each, Middleware)]

    def outermost(inner: ASGIApp) -> ASGIApp:
        return RequestContextMiddleware(
            inner, service=service, request_id=request_id, settings=settings
        )

    _try(chosen, outermost)
    setattr(app.state, _INSTALLED, settings)
    _handle(app, renderer)
    _wrap(app, chosen, outermost, renderer)
    app.openapi = document_errors(app, errors)  # type: ignore[method-assign]
    if health is not None:
        _drain(app, health)


def _check_app(app: object) -> None:
    if not isinstance(app, FastAPI):
        raise TypeError(f"app is a {type(app).__name__}: give the FastAPI() application itself")
    if hasattr(app.state, _INSTALLED):
        raise RuntimeError("install() was called for this app before: call it once")
    if app.middleware_stack is not None:
        raise RuntimeError("the app has started: call install() when making it")


def _try(stack: list[Middleware], outermost: Callable[[ASGIApp], ASGIApp]) -> None:
    """Construct everything once, so that what cannot be is said here, not at the first request."""

    async def nothing(*_: Any) -> None: ...

    outermost(nothing)
    for cls, args, kwargs in stack:
        cls(nothing, *args, **kwargs)


def _wrap(
    app: Starlette,
    stack: list[Middleware],
    outermost: Callable[[ASGIApp], ASGIApp],
    renderer: ErrorRenderer,
) -> None:
    build = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        own = app.user_middleware
        app.user_middleware = [*stack, *own]
        try:
            built = build()
        finally:
            app.user_middleware = own
        for mounted in _mounted(app.routes):
            if not hasattr(mounted.state, _INSTALLED) and mounted.middleware_stack is None:
                setattr(mounted.state, _INSTALLED, None)
                _handle(mounted, renderer)
                errors = Middleware(ErrorMiddleware, renderer=renderer, passes=_passing(mounted))
                _wrap(mounted, [errors], lambda inner: inner, renderer)
        return outermost(built)

    app.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]


def _handle(app: Starlette, renderer: ErrorRenderer) -> None:
    """Set the handlers that the application has not set itself."""
    router = app.router
    if router.default == router.not_found:
        router.default = not_found(renderer, router.not_found)
    for error, handler in exception_handlers(renderer).items():
        if app.exception_handlers.get(error) in (None, *_FASTAPIS):
            app.exception_handlers[error] = handler


def _passing(app: Starlette) -> Callable[[], bool]:
    """Whether Starlette has its own answer to what nobody raised on purpose."""

    def passes() -> bool:
        return app.debug or Exception in app.exception_handlers or 500 in app.exception_handlers

    return passes


def _mounted(routes: Iterable[BaseRoute]) -> Iterator[Starlette]:
    for context in iter_route_contexts(list(routes)):
        route = context.original_route
        if not isinstance(route, Mount | Host):
            continue
        inner: Any = route.app
        for _ in range(MAX_MIDDLEWARE):
            if isinstance(inner, Starlette):
                break
            inner = getattr(inner, "app", None)  # middleware of the mount
        if isinstance(inner, Starlette):
            yield inner
        else:
            yield from _mounted(route.routes or ())


def _drain(app: FastAPI, health: Health) -> None:
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncGenerator[Any]:
        async with inner(started) as state:
            with health.drain_on():
                yield state

    app.router.lifespan_context = lifespan
