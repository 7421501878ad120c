"""What a call returns."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

from common.clients._errors import unusable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import UnionType

    from common.clients._headers import Headers
    from common.errors import UpstreamServiceError

T = TypeVar("T")
_MOST_ERRORS = 1000
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}")  # RFC 6838


class Response:
    """An answer with a status below 300 (or 304), read to its end.

    Attributes:
        status: HTTP status.
        headers: Its headers.
        content: Its body, decompressed.
    """

    __slots__ = ("_call", "_service", "content", "headers", "status")

    def __init__(
        self, status: int, headers: Headers, content: bytes, *, service: str, call: str
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._service = service
        self._call = call

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
        raise self._unusable(failed)

    @overload
    def decode(self, model: type[T]) -> T: ...
    @overload
    def decode(self, model: UnionType) -> Any: ...
    def decode(self, model: type[T] | UnionType) -> T:
        """Return the body as a pydantic model, or as any type that pydantic knows.

        As with `json`, there is no NaN and no Infinity, which pydantic by itself takes.

        Args:
            model: Such as ``Order``, ``list[Order]`` or ``Order | None``.

        Raises:
            UpstreamServiceError: If the body does not fit. The error names fields of the model
                and kinds of errors, and does not show what was in the body.
            TypeError: If nothing can be decoded into ``model``.
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
        raise self._unusable(f"no {_name(model)}: {failed}")

    def _unusable(self, why: str) -> UpstreamServiceError:
        return unusable(
            self._service, self._call, f"its answer is {why}{self._other()}", status=self.status
        )

    def _other(self) -> str:
        """The type of the answer, unless it is one of JSON; no more of what was sent than that."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind or kind.endswith(("/json", "+json")):
            return ""
        return f"; it is {kind if _MEDIA_TYPE.fullmatch(kind) else 'of an unreadable type'}"

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.content)} bytes from {self._service})"


def check_model(model: Any) -> None:
    """Raise what `Response.decode` would raise for what nothing can be decoded into."""
    _validator(model)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _validator(model: Any) -> tuple[Callable[[bytes], Any], type[Exception]]:
    try:
        return _compiled(model)
    except ImportError:
        raise
    except Exception as error:
        # Of pydantic's own kinds, or whatever comes up in its looking for a type.
        shown = f"of type {type(model).__name__}" if not isinstance(model, type) else _name(model)
        raise TypeError(
            f"into= is {shown}, which pydantic cannot decode into: give a model, or a type such "
            "as list[Order]"
        ) from error


@lru_cache(maxsize=256)
def _compiled(model: Any) -> tuple[Callable[[bytes], Any], type[Exception]]:
    try:
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError(
            "into= needs pydantic: pip install 'common-clients[pydantic]', or use Response.json()"
        ) from None
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    if not adapter.pydantic_complete:
        adapter.rebuild()  # or raise here, before anything is sent, what has no name
    return adapter.validate_json, ValidationError


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
