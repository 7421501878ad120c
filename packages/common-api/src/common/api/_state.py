"""What the parts of the stack know about the request they share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from common.api._proxies import TrustedProxies
from common.api._route import UNMATCHED, known_method, route_template
from common.context import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Scope

    from common.api._idempotency_store import Claim, IdempotencyStore, StoredResponse
    from common.api._styles import ErrorRenderer

logger = logging.getLogger("common.api")

SCOPE_KEY = "common.api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an application chose once; the same object for all of its requests."""

    service: str | None = None
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    idempotency: IdempotencyStore | None = None
    renderer: ErrorRenderer | None = None


class Digest(Protocol):
    """A hash that is fed piece by piece, as `hashlib` makes them."""

    def hexdigest(self) -> str:
        """Return it in hexadecimal."""
        ...


class RequestState:
    """Lives in the scope under `SCOPE_KEY` for one request.

    Attributes:
        settings: The application's; within a mounted one that has its own, those.
        scope: The request's.
        method: Its method, out of those that are known; ``WS`` of a websocket.
        route: Template that stands in for the route's, where no router is asked.
        error: What went wrong, for the operation.
        reported: What stands in the log already.
        refused: Whether the log says that it was refused.
        claim: The idempotency key this request holds.
        digest: Of the body as far as it was read, if the request has an idempotency key.
        replay: The stored answer that this request gets.
        started: Whether the response has started.
        complete: Whether the last byte of the response was handed to the server.
        gone: Whether the client went away before that.
    """

    # Of the class until they change: making a request's state should cost little.
    route: str | None = None
    error: BaseException | None = None
    reported: BaseException | None = None
    refused = False
    claim: Claim | None = None
    digest: Digest | None = None
    replay: StoredResponse | None = None
    started = False
    complete = False
    gone = False

    def __init__(self, settings: Settings, scope: Scope, app: Any = None) -> None:
        self.settings = settings
        self.scope = scope
        # A mounted application puts itself in its place.
        self._app = scope.get("app") or app
        self._root_path = scope.get("root_path", "")
        self.method = known_method(scope["method"]) if scope["type"] == "http" else "WS"

    def template(self) -> str:
        """Return the route's template, never anything of the path."""
        if self.route:
            return self.route
        try:
            return route_template(self.scope, app=self._app, root_path=self._root_path)
        except Exception:
            # Part of it is FastAPI's own business, and no name is worth a request.
            logger.warning("the route's template was not found", exc_info=True)
            return UNMATCHED

    def name(self) -> str:
        """Return method and template, by which the request is called in operations and logs."""
        return f"{self.method} {self.template()}"


def state_of(scope: Scope) -> RequestState | None:
    """Return the request's state, if `RequestContextMiddleware` is there."""
    state = scope.get(SCOPE_KEY)
    return state if isinstance(state, RequestState) else None


def settings_of(scope: Scope) -> Settings:
    """Return the application's settings, or the defaults."""
    state = state_of(scope)
    return Settings() if state is None else state.settings


def header_values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Return all values of a header; the name in lower case, as ASGI has them."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def ids(**more: str | None) -> dict[str, str | None]:
    """Return what a log record carries besides its message."""
    context = current()
    return {
        "request_id": context.request_id,
        "correlation_id": context.correlation_id,
        "trace_id": context.trace.trace_id if context.trace else None,
        **{f"error_{name.removeprefix('error_')}": value for name, value in more.items()},
    }
