"""What a call returns."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import UpstreamServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.clients._headers import Headers

T = TypeVar("T")
_MOST_ERRORS = 1000


class Response:
    """An answer with a status below 300 (or 304), read to its end.

    Attributes:
        status: HTTP status.
        headers: Its headers.
        content: Its body, decompressed.
    """

    __slots__ = ("_endpoint", "_service", "content", "headers", "status")

    def __init__(
        self, status: int, headers: Headers, content: bytes, *, service: str, endpoint: str
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._service = service
        self._endpoint = endpoint

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none is replaced by U+FFFD."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body, parsed as JSON (RFC 8259: no NaN).

        Raises:
            UpstreamServiceError: If it is no JSON. The error does not show it.
        """
        failed = ""
        try:
            return json.loads(self.content, parse_constant=_refuse_constant)
        except RecursionError:
            failed = "nested too deeply"
        except ValueError:
            failed = "no JSON"
        # Not within the except clause: the context of the error would hold the body.
        raise self._unusable(f"its answer is {failed}")

    def decode(self, model: type[T]) -> T:
        """Return the body as a pydantic model, or as any type that pydantic knows.

        As with `json`, there is no NaN and no Infinity, which pydantic by itself takes.

        Args:
            model: Such as ``Order`` or ``list[Order]``.

        Raises:
            UpstreamServiceError: If the body does not fit. The error names fields of the model
                and kinds of errors, and does not show what was in the body.
            ImportError: If the extra ``pydantic`` is not installed.
        """
        kind: Any = model
        validate, failure = _validator(kind)
        failed = ""
        if b"NaN" in self.content or b"Infinity" in self.content:
            self.json()  # they may stand in a text
        try:
            result: T = validate(self.content)
        except failure as error:
            failed = _places(error, model)
        except RecursionError:
            failed = "nested too deeply"
        else:
            return result
        raise self._unusable(f"its answer is no {_name(model)}: {failed}")

    def _unusable(self, why: str) -> UpstreamServiceError:
        return UpstreamServiceError(
            f"{self._service}: {why}",
            service=self._service,
            retryable=False,
            upstream_service=self._service,
            upstream_status=self.status,
            endpoint=self._endpoint,
        )

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.content)} bytes from {self._service})"


def check_model(model: Any) -> None:
    """Raise what `Response.decode` would raise for a type that nothing can be decoded into."""
    _validator(model)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


@lru_cache(maxsize=256)
def _validator(model: Any) -> tuple[Callable[[bytes], Any], type[Exception]]:
    try:
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError(
            "into= needs pydantic: pip install 'common-clients[pydantic]', or use Response.json()"
        ) from None
    return TypeAdapter(model).validate_json, ValidationError


def _places(error: Any, model: object) -> str:
    """Fields and kinds of errors: only names that the model itself has, none from the body."""
    if error.error_count() > _MOST_ERRORS:  # a list of them would be many times the body
        return f"{error.error_count()} errors"
    fields: Any = getattr(model, "model_fields", {})
    found: list[str] = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        first = each["loc"][0] if each["loc"] else ""
        place = first if isinstance(first, str) and first in fields else "…"
        found.append(f"{place} ({each['type']})")
        if len(found) == 5:
            break
    return ", ".join(dict.fromkeys(found))


def _name(model: object) -> str:
    return str(model) if "[" in str(model) else getattr(model, "__name__", str(model))
