"""What another service says about its error."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import AppError

MAX_BODY = 64 * 1024
_CODE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem document (RFC 9457), or what an envelope ``{"error": {…}}`` has in it.

    Both are what services on common-api answer, by their own choice; the envelope is its default.

    It is the other service's word, bounded and without control characters, and may hold what is
    not for everybody: show none of it to callers unseen.

    Attributes:
        type: URI reference that identifies the kind of problem.
        title: Summary of the kind of problem; of an envelope, the error's ``message``.
        status: HTTP status, as the document has it.
        detail: Explanation of this very occurrence.
        instance: URI reference of this occurrence.
        code: Stable code, if there is one of at most 128 letters, digits, ``.``, ``_``, ``-``.
        retryable: Whether the same request may succeed later, by a member ``retryable`` of the
            error or of its ``details``; ``None`` if it does not say.
    """

    type: str = "about:blank"
    title: str | None = None
    status: int | None = None
    detail: str | None = None
    instance: str | None = None
    code: str | None = None
    retryable: bool | None = None


def problem_of(error: BaseException) -> Problem | None:
    """Return what the other service said of an error that a `ServiceClient` raised, if anything.

    Example:
        >>> problem_of(ValueError()) is None
        True
    """
    problem = vars(error).get("_problem")
    return problem if isinstance(problem, Problem) else None


def attach(error: AppError, problem: Problem) -> None:
    """Make `problem_of` know it, and do as the other service says where it asks for less.

    Who says that repeating is of no use is not asked again. Who says that it is may be wrong:
    what is safe to repeat is for this side to know.
    """
    vars(error)["_problem"] = problem
    if problem.retryable is False and error.retryable:
        error.retryable = False
        if "retryable" in error.details:
            error.details["retryable"] = False
        error.add_note("the other service says that repeating is of no use")


def parse_problem(content: bytes, content_type: str) -> Problem | None:
    """Return the problem in an error's body; ``None`` if there is none. Never raises."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("application/problem+json", "application/json") or len(content) > MAX_BODY:
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    inner = document.get("error")
    if kind == "application/json" and isinstance(inner, dict):
        return Problem(
            title=_text(inner, "message"), code=_code(inner), retryable=_retryable(inner)
        )
    if kind == "application/json" and not {"type", "title", "detail"} & document.keys():
        return None
    status = document.get("status")
    return Problem(
        type=_text(document, "type") or "about:blank",
        title=_text(document, "title"),
        status=status if isinstance(status, int) and 100 <= status <= 599 else None,
        detail=_text(document, "detail"),
        instance=_text(document, "instance"),
        code=_code(document),
        retryable=_retryable(document),
    )


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    return _CONTROL.sub(" ", value[:1000]) if isinstance(value, str) and value else None


def _retryable(document: dict[str, Any]) -> bool | None:
    details = document.get("details")
    for each in (document, details if isinstance(details, dict) else {}):
        said = each.get("retryable")
        if isinstance(said, bool):
            return said
    return None


def _code(document: dict[str, Any]) -> str | None:
    code = document.get("code")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None
