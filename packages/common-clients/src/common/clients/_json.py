"""A body as JSON."""

from __future__ import annotations

import json
import math
from datetime import date, time
from typing import Any

from common.errors import ValidationError

_LONGEST = 200  # characters of a path


def dumped(value: Any) -> bytes:
    """Return what `json.dumps` takes, with pydantic models anywhere in it, as JSON.

    Raises:
        TypeError: If there is anything else in it. It tells where, and does not show the value.
        ValueError: If there is a number in it that JSON has not (NaN, infinity), or a loop.
        ValidationError: If there is text that is no valid Unicode.
    """
    dump = getattr(value, "model_dump_json", None)
    if dump is not None:
        return str(dump()).encode()
    try:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
    except (TypeError, ValueError) as error:
        wrong = _wrong(value)
        if wrong is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(wrong) from None
    return encoded(text, "json")


def encoded(text: str, field: str) -> bytes:
    """Return text as UTF-8.

    Raises:
        ValidationError: If it is no valid Unicode. It does not show the text.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate. That error would hold the text.
        pass
    raise ValidationError(f"{field}= has text that is no valid Unicode", field=field)


def _plain(value: Any) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"json= has {type(value).__name__} in it")
    plain: object = dump(mode="json")
    return plain


def _wrong(body: Any) -> str | None:
    """What `json.dumps` does not take, where it is, and what to give in its place."""
    seen: dict[int, object] = {}  # kept alive, or an id would come again
    left: list[tuple[str, Any]] = [("json", body)]
    while left:
        path, value = left.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            found = _within(path if len(path) <= _LONGEST else path[:_LONGEST] + "…", value)
            if isinstance(found, str):
                return found
            left += reversed(found)
    return None


def _within(path: str, value: Any) -> list[tuple[str, Any]] | str:
    """The values in a value, each with where it is; or what is wrong with it."""
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str | int | float | None)]:
            return f"{path} has a key that is {type(odd[0]).__name__}: give text"
        return [(f"{path}[{key!r}]", each) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [(f"{path}[{index}]", each) for index, each in enumerate(value)]
    if hasattr(value, "model_dump"):
        return [(path, value.model_dump(mode="json"))]
    if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return []
    return f"{path} is {_instead(value)}"


def _instead(value: object) -> str:
    if isinstance(value, float):
        return f"{value!r}, which JSON has not: give None, or leave it out"
    what = "text, a number, a list, a mapping or a pydantic model"
    if isinstance(value, date | time):
        what = "its isoformat()"
    elif isinstance(value, set | frozenset):
        what = "a list"
    return f"{type(value).__name__}: give {what}"
