"""What an error looks like on the wire: in the envelope, or as a problem document."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fastapi.responses import JSONResponse
from starlette.responses import Response

from common.context import current

if TYPE_CHECKING:
    from collections.abc import Mapping

ErrorStyle: TypeAlias = Literal["envelope", "problem"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """As much of an error as its caller may see.

    Attributes:
        status: HTTP status.
        code: Stable code.
        message: For people.
        details: Facts for programs.
        headers: Further headers; names and values that cannot be headers are left out.
        retry_after: Seconds, for ``Retry-After``.
        error_id: Under which the log shows the error.
    """

    status: int
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    error_id: str | None = None


class ErrorRenderer:
    """Makes responses of errors, in the style that an application chose.

    Args:
        style: ``"envelope"``: ``{data, error, meta, pagination, links}`` as successes have it;
            ``"problem"``: RFC 9457, ``application/problem+json``.
        problem_types: Base of the problems' ``type``, to which the code is added in lower case
            with ``-`` (``https://errors.example.com/`` gives ``…/order-closed``); by default
            ``about:blank``, for which the title is the status's own (section 4.2.1).

    Raises:
        ValueError: If the style is unknown, or there are types for a style that shows none.
        TypeError: If the types are no text.
    """

    def __init__(self, style: ErrorStyle = "envelope", *, problem_types: str | None = None) -> None:
        if style not in ("envelope", "problem"):
            raise ValueError(f"errors={style!r}: choose 'envelope' or 'problem'")
        if problem_types is not None and style != "problem":
            raise ValueError(
                f"problem_types={problem_types!r}: only errors='problem' shows types; leave it out"
            )
        given: object = problem_types
        if not isinstance(given, str | None):
            raise TypeError(f"problem_types={given!r}: give the base of an address, or None")
        self.style: ErrorStyle = style
        self._types = problem_types

    def response(self, view: ErrorView) -> Response:
        """Return the response for an error."""
        headers = {
            name: text
            for name, value in view.headers.items()
            if _TOKEN.fullmatch(name) and _VALUE.fullmatch(text := str(value))
        }
        if view.retry_after is not None and math.isfinite(view.retry_after):
            headers.setdefault("Retry-After", str(max(math.ceil(view.retry_after), 0)))
        if view.status < 200 or view.status in (204, 205, 304):  # RFC 9110: without content
            return Response(status_code=view.status, headers=headers)
        # A stored error would be wrong for whoever asks next.
        headers.setdefault("Cache-Control", "no-store")
        if self.style == "problem":
            return JSONResponse(
                self.problem(view),
                view.status,
                headers,
                media_type="application/problem+json",
            )
        return JSONResponse(self.envelope(view), view.status, headers)

    def envelope(self, view: ErrorView) -> dict[str, Any]:
        """Return the envelope's content."""
        error: dict[str, Any] = {
            "code": view.code,
            "message": view.message,
            "details": dict(view.details),
        }
        if view.error_id:
            error["error_id"] = view.error_id
        return {
            "data": None,
            "error": error,
            "meta": meta(),
            "pagination": None,
            "links": None,
        }

    def problem(self, view: ErrorView) -> dict[str, Any]:
        """Return the problem document (RFC 9457, section 3)."""
        context = current()
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": status_phrase(view.status),
            "status": view.status,
            "detail": view.message,
            "code": view.code,
            "details": dict(view.details),
            "request_id": context.request_id,
            "correlation_id": context.correlation_id,
        }
        if self._types is not None:
            document["type"] = self._types + view.code.lower().replace("_", "-")
        if view.error_id:
            document["error_id"] = view.error_id
        return document


def meta() -> dict[str, Any]:
    """Return what every envelope says about its request."""
    context = current()
    return {
        "request_id": context.request_id,
        "correlation_id": context.correlation_id,
        "trace_id": context.trace.trace_id if context.trace else None,
        "service": context.service,
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }


def status_phrase(status: int) -> str:
    """Return the status's own words.

    Example:
        >>> status_phrase(404), status_phrase(799)
        ('Not Found', 'Error')
    """
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def status_code(status: int) -> str:
    """Return a code for errors that have none but their status.

    Example:
        >>> status_code(405), status_code(418)
        ('METHOD_NOT_ALLOWED', 'IM_A_TEAPOT')
    """
    phrase = status_phrase(status).upper().replace("'", "")
    return re.sub(r"[^A-Z0-9]+", "_", phrase)
