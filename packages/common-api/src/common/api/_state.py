"""What the parts of the stack know about the request they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from common.api._proxies import TrustedProxies
from common.context import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Scope

    from common.api._idempotency_store import Claim, IdempotencyStore, StoredResponse
    from common.api._styles import ErrorRenderer

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
        route: Template that stands in for the route's, where no router is asked.
        error: What went wrong, for the operation.
        reported: What stands in the log already.
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
    claim: Claim | None = None
    digest: Digest | None = None
    replay: StoredResponse | None = None
    started = False
    complete = False
    gone = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


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
