"""Request targets that cannot leave the base URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, time
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from common.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TARGET = 8000  # RFC 9110, section 4.1: what every recipient should support
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_HIDDEN = re.compile("//|%(?:2f|5c|[01][0-9a-f]|7f)")
_SLASHES = re.compile(r"[/\\]")


def fill(template: str, values: Mapping[str, object]) -> str:
    """Return the path: the template with its fields filled in, each as one segment's text.

    Raises:
        ValueError: If the template is no path of its own, or does not fit the values: a mistake
            of the code that calls.
        ValidationError: If a value is empty, a dot segment, or holds one between slashes. It
            names the field and does not show the value.
    """
    wanted = _fields(template)
    if wanted.symmetric_difference(values):
        raise ValueError(
            f"{template!r} has the fields {sorted(wanted)}, and path= has {sorted(values)}"
        )
    if missing := [name for name, value in values.items() if value is None]:
        raise ValueError(f"path= has None for {missing}: it would be called 'None'")
    path = _FIELD.sub(lambda found: _segment(found[1], values[found[1]]), template)
    if _leaves(path.lower(), filled=True):  # "/.{extension}" may become "/.."
        raise ValidationError("these values make a dot segment of the path", field="path")
    return path


def query(params: Mapping[str, object] | None) -> str:
    """Return ``?name=value&…``; lists repeat their name, ``None`` is left out.

    Raises:
        TypeError: If a value is nothing that has one text.
        ValidationError: If a text cannot be encoded.
    """
    if not params:
        return ""
    try:
        pairs = [
            f"{quote_plus(name)}={quote_plus(_text(name, each))}"
            for name, value in params.items()
            for each in _each(value)
            if each is not None
        ]
    except UnicodeEncodeError:
        pairs = None
    if pairs is None:  # not within the except clause: that error holds the value
        raise ValidationError("the query has text that is no valid Unicode", field="params")
    return "?" + "&".join(pairs) if pairs else ""


@lru_cache(maxsize=1000)
def _fields(template: str) -> frozenset[str]:
    """Names of a template's fields, once it is found to be a plain path."""
    literals = _FIELD.sub("x", template)
    if not template.startswith("/") or template.startswith("//"):
        raise ValueError(f"{template!r}: a path begins with one '/', as in '/calls/{{id}}'")
    if "?" in template or "#" in template:
        raise ValueError("the path has a query or fragment: give params=")
    if not _LITERAL.fullmatch(literals) or _leaves(literals.lower()):
        raise ValueError(
            f"{template!r}: write a plain path with fields as in '/calls/{{id}}', without dot "
            "segments; values go into path="
        )
    return frozenset(_FIELD.findall(template))


def _leaves(path: str, *, filled: bool = False) -> bool:
    """Whether a path, in lower case, may mean another place to some server on its way."""
    segments = path.replace("%2e", ".").split("/")
    return not {".", ".."}.isdisjoint(segments) or (not filled and bool(_HIDDEN.search(path)))


def _segment(name: str, value: object) -> str:
    text = _text(name, value)
    # Servers differ in when they decode %2F, so that "a%2F.." may climb up somewhere.
    if not text or not {".", ".."}.isdisjoint(_SLASHES.split(text)):
        raise ValidationError(f"{name} cannot stand in a path", field=name)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValidationError(f"{name} has control characters", field=name)
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        pass
    raise ValidationError(f"{name} is no valid text", field=name)


def _each(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _text(name: str, value: object) -> str:
    """The text of one value; bytes, mappings and the like would be sent as Python writes them."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    number = isinstance(value, int | float)
    if isinstance(value, Iterable) or (not number and type(value).__str__ is object.__str__):
        raise TypeError(f"{name} is {type(value).__name__}: give text, a number, a date or an id")
    return str(value)
