"""From exceptions to what their caller may see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from fastapi.exceptions import RequestValidationError
from pydantic_core.core_schema import ErrorType
from starlette.exceptions import HTTPException

from common.api._styles import ErrorView, status_code, status_phrase
from common.context import DeadlineExceeded, valid_id
from common.errors import AppError, InternalError, json_safe

MAX_FIELDS = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
# Pydantic's own messages, as far as they speak of the rule. Others, and those of an
# application's validators, may quote what was submitted.
_KNOWN = frozenset(get_args(ErrorType)) - {"value_error", "assertion_error"}
_ABOUT_THE_RULE = frozenset(
    {
        "actual_length", "class", "class_name", "decimal_places", "encoding_error", "expected",
        "expected_schemes", "expected_version", "field_type", "ge", "gt", "le", "lt",
        "max_digits", "max_length", "min_length", "multiple_of", "pattern", "tz_expected",
        "unit_expected", "whole_digits",
    }
)  # fmt: skip


class HTTPError(HTTPException):
    """An `HTTPException` with a code of its own, for what the stack itself refuses.

    Not an `AppError`, since FastAPI lets nothing but `HTTPException` through while it reads
    a body.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code


def view_of(error: BaseException) -> ErrorView | None:
    """Return what the caller may see; ``None`` for exceptions nobody raised on purpose."""
    if isinstance(error, InternalError):
        return ErrorView(
            status=error.status,
            code=error.code,
            message=error.message,
            details={},
            error_id=error.error_id,
        )
    if isinstance(error, AppError):
        return _app_error(error)
    if isinstance(error, RequestValidationError):
        return ErrorView(
            status=422,
            code="VALIDATION_ERROR",
            message="The request is not valid",
            details={"fields": fields_of(error.errors())},
        )
    if isinstance(error, HTTPException):
        return _http_exception(error)
    if isinstance(error, DeadlineExceeded):
        return ErrorView(status=error.status, code=error.code, message="The deadline was exceeded")
    return None


def _app_error(error: AppError) -> ErrorView:
    shown = error.to_dict()
    headers = getattr(error, "headers", None)
    given = dict(headers) if isinstance(headers, Mapping) else {}
    status = error.status if 400 <= error.status <= 599 else 500
    if status == 401 and not any(name.lower() == "www-authenticate" for name in given):
        # A 401 without a challenge is no 401 (RFC 9110, section 15.5.2).
        given["WWW-Authenticate"] = "Bearer"
    retry_after = getattr(error, "retry_after", None)
    return ErrorView(
        status=status,
        code=error.code if valid_id(error.code) else status_code(status),
        message=str(shown["message"]),
        details=cast("dict[str, Any]", shown["details"]),
        headers=given,
        retry_after=retry_after if isinstance(retry_after, int | float) else None,
    )


def _http_exception(error: HTTPException) -> ErrorView:
    detail = cast("object", error.detail)  # FastAPI takes anything
    code = getattr(error, "code", None)
    # Safe: some texts cannot be written, such as those with lone surrogates.
    text = json_safe(detail) if isinstance(detail, str) else None
    details = {} if detail is None or isinstance(detail, str) else json_safe(detail)
    return ErrorView(
        status=error.status_code,
        code=code if isinstance(code, str) and valid_id(code) else status_code(error.status_code),
        message=str(text or status_phrase(error.status_code)),
        details=details if isinstance(details, dict) else {"detail": details},
        headers=dict(error.headers or {}),
    )


def fields_of(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return field, rule and message of validation errors, without anything submitted.

    Names come from outside as well, where extra fields are forbidden or in mappings: one that
    is no identifier is shown as ``*``.

    Example:
        >>> fields_of([{"loc": ("body", "age"), "type": "int_type", "msg": "Not an int"}])
        [{'field': 'body.age', 'type': 'int_type', 'message': 'Not an int'}]
    """
    return [
        {
            "field": ".".join(map(_part, error.get("loc", ())))[:512],
            "type": _kind(error),
            "message": _message(error),
        }
        for error in errors[:MAX_FIELDS]
    ]


def _part(part: object) -> str:
    if isinstance(part, int):
        return str(part)
    return part if isinstance(part, str) and _NAME.fullmatch(part) else "*"


def _kind(error: Mapping[str, Any]) -> str:
    kind = error.get("type")
    return kind if isinstance(kind, str) and _NAME.fullmatch(kind) else "invalid"


def _message(error: Mapping[str, Any]) -> str:
    if error.get("type") == "json_invalid":
        return "The body is no JSON"
    facts = error.get("ctx") or {}
    if error.get("type") in _KNOWN and _ABOUT_THE_RULE.issuperset(facts):
        return str(error.get("msg"))[:512]
    return "The value is not valid"
