"""The paths that machines ask: ``/livez``, ``/readyz``, ``/health`` and ``/metrics``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from starlette.responses import JSONResponse, Response

from common.api._health import Health
from common.api._route import route_path
from common.api._state import state_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MetricsSource: TypeAlias = Callable[[], tuple[bytes, str]]
"""Returns a page of metrics and its content type, as common-metrics does."""


class ProbesMiddleware:
    """Answers the paths that machines ask, before anything else of the application.

    They need no host name that is allowed and no credentials, since probes have neither: keep
    them inside the cluster. ``GET`` and ``HEAD`` only.

    * ``/livez``: 200 as long as the event loop turns. It never touches dependencies: a
      database that is down is no reason to restart this process.
    * ``/readyz``: 200, or 503 when a critical check fails or the process drains.
    * ``/health``: the same in the shape ``{status, service, version, timestamp, checks}`` with
      ``healthy``, ``degraded`` or ``unhealthy``.
    * ``/metrics``: what ``metrics`` returns.

    Args:
        app: What it wraps.
        health: The checks.
        metrics: Where metrics come from; without it ``/metrics`` is the application's.
        service: This service's name.
        version: This service's version.

    Raises:
        TypeError: If ``metrics`` is no plain function.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        health: Health | None = None,
        metrics: MetricsSource | None = None,
        service: str | None = None,
        version: str | None = None,
    ) -> None:
        given: object = metrics
        if given is not None and (not callable(given) or inspect.iscoroutinefunction(given)):
            raise TypeError("metrics: give a plain function that returns (bytes, content type)")
        self.app = app
        self._health = health or Health()
        self._metrics = metrics
        self._service = service
        self._version = version
        self._answers: dict[str, Callable[[], Awaitable[Response]]] = {
            "/livez": self._live,
            "/readyz": self._ready,
            "/health": self._report,
        }
        if metrics is not None:
            self._answers["/metrics"] = self._page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_path(scope)
            answer = self._answers.get(path)
            if answer is not None and scope["method"] in ("GET", "HEAD"):
                state = state_of(scope)
                if state is not None:
                    state.route = path
                response = await answer()
                response.headers["Cache-Control"] = "no-store"
                if scope["method"] == "HEAD":
                    response.body = b""
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _live(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> Response:
        ready, report = await self._health.readiness()
        return JSONResponse(report, 200 if ready else 503)

    async def _report(self) -> Response:
        ready, report = await self._health.report(self._service, self._version)
        return JSONResponse(report, 200 if ready else 503)

    async def _page(self) -> Response:
        assert self._metrics is not None  # noqa: S101 - only then is the path answered
        page, content_type = self._metrics()
        return Response(page, headers={"Content-Type": content_type})
