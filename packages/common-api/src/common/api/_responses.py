"""The envelope in which every response speaks of itself."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.api._pages import Cursor, Pagination
from common.api._state import settings_of
from common.api._styles import ErrorRenderer, ErrorView
from common.api._views import view_of
from common.context import current
from common.errors import AppError

T = TypeVar("T")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ErrorBody(_Part):
    """What went wrong.

    Attributes:
        code: Stable code, to tell errors apart by.
        message: For people.
        details: Facts for programs.
        error_id: Under which the log shows the error; with a status of 500 or above.
    """

    code: str
    message: str
    details: dict[str, Any] = Field(default_factory=dict)
    error_id: str | None = None


class Meta(_Part):
    """Which request this answers: the ids are those of the headers and of the log."""

    request_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    service: str | None = None
    timestamp: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


def make_meta() -> Meta:
    """Return what the current context says."""
    context = current()
    return Meta(
        request_id=context.request_id,
        correlation_id=context.correlation_id,
        trace_id=context.trace.trace_id if context.trace else None,
        service=context.service,
    )


class PageInfo(_Part):
    """Which part of a list this is.

    Attributes:
        page: Number of the page, from 1; ``None`` with a cursor.
        limit: At most so many on a page.
        offset: How many come before this page; ``None`` with a cursor.
        total: How many there are in all, if that was counted.
        pages: How many pages there are in all, if that is known.
        has_next: Whether more follow.
        next_cursor: What to send as ``cursor`` for these.
    """

    limit: int
    page: int | None = None
    offset: int | None = None
    total: int | None = None
    pages: int | None = None
    has_next: bool = False
    next_cursor: str | None = None


class ApiResponse(_Part, Generic[T]):
    """The envelope: ``data`` of a success or ``error``, and what is known about the response.

    All five members are always there.

    Example:
        >>> success_response({"id": 7}).data
        {'id': 7}
    """

    data: T | None = None
    error: ErrorBody | None = None
    meta: Meta = Field(default_factory=make_meta)
    pagination: PageInfo | None = None
    links: dict[str, str] | None = None


class ErrorResponse(_Part):
    """The envelope of an error, as OpenAPI documents it."""

    data: None = None
    error: ErrorBody
    meta: Meta
    pagination: None = None
    links: None = None


class Problem(BaseModel):
    """A problem document (RFC 9457), as OpenAPI documents it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    details: dict[str, Any] = Field(default_factory=dict)
    request_id: str | None = None
    correlation_id: str | None = None
    error_id: str | None = None


def success_response(data: T, *, links: Mapping[str, str] | None = None) -> ApiResponse[T]:
    """Return the envelope of a success.

    Args:
        data: The result.
        links: By relation, such as ``{"self": "/orders/7"}``.
    """
    return ApiResponse[T](data=data, links=None if links is None else dict(links))


def paginated_response(
    items: Sequence[T], *, page: Pagination, total: int | None = None, has_next: bool | None = None
) -> ApiResponse[list[T]]:
    """Return the envelope of one page, with links to the others.

    Args:
        items: What is on the page.
        page: The page that was asked for, from `PaginationDep`.
        total: How many there are in all, if that was counted.
        has_next: Whether more follow; by default told by ``total``, or else by the page being
            full.
    """
    if has_next is None:
        seen = page.offset + len(items)
        has_next = seen < total if total is not None else len(items) >= page.limit
    return ApiResponse[list[T]](
        data=list(items),
        pagination=PageInfo(
            page=page.page,
            limit=page.limit,
            offset=page.offset,
            total=total,
            pages=None if total is None else -(-total // page.limit),
            has_next=has_next,
        ),
        links=page.links(total=total, has_next=has_next),
    )


def cursor_response(
    items: Sequence[T], *, cursor: Cursor, next_cursor: str | None
) -> ApiResponse[list[T]]:
    """Return the envelope of one page of a list that is read by cursor.

    Args:
        items: What is on the page.
        cursor: The place that was asked for, from `CursorDep`.
        next_cursor: Where the next page begins; ``None`` on the last.
    """
    return ApiResponse[list[T]](
        data=list(items),
        pagination=PageInfo(
            limit=cursor.limit, has_next=next_cursor is not None, next_cursor=next_cursor
        ),
        links=cursor.links(next_cursor),
    )


class _ErrorAnswer(Response):
    """Takes on the style that the application chose, which only the request knows."""

    def __init__(self, view: ErrorView) -> None:
        shown = ErrorRenderer().response(view)
        super().__init__(shown.body, shown.status_code)
        self.raw_headers = shown.raw_headers
        self._view = view

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        renderer = settings_of(scope).renderer
        if renderer is not None:
            shown = renderer.response(self._view)
            self.body = shown.body
            for name in ("content-type", "content-length"):
                self.headers[name] = shown.headers[name]
        await super().__call__(scope, receive, send)


def error_response(error: AppError, *, renderer: ErrorRenderer | None = None) -> Response:
    """Return the response for an error without raising it; raising is the usual way.

    Nothing is logged.

    Args:
        error: The error.
        renderer: How errors look; by default as `install` was told, or else the envelope.

    Raises:
        TypeError: If it is no `AppError`.
    """
    given: object = error
    view = view_of(error) if isinstance(given, AppError) else None
    if view is None:
        raise TypeError(f"error={given!r}: give an AppError; raise whatever else went wrong")
    return _ErrorAnswer(view) if renderer is None else renderer.response(view)
