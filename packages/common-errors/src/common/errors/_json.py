"""Any value as JSON, bounded, without ever raising or calling foreign code that could leak."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from os import PathLike, fspath

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)

MAX_DEPTH = 6
MAX_ITEMS = 100  # of one mapping or sequence
MAX_NODES = 1_000  # of the whole value
MAX_TEXT = 1_000  # characters of one string

# Known by name: importing their modules would cost more than this whole package.
_SHOWN_AS_TEXT = frozenset(
    {
        "decimal.Decimal",
        "fractions.Fraction",
        "ipaddress.IPv4Address",
        "ipaddress.IPv4Network",
        "ipaddress.IPv6Address",
        "ipaddress.IPv6Network",
        "uuid.UUID",
        "zoneinfo.ZoneInfo",
    }
)


def json_safe(value: object) -> JsonValue:
    """Return ``value`` as something ``json.dumps(…, allow_nan=False)`` accepts.

    Identifiers, dates, decimals, enumerations, paths and bytes become text (bytes as UTF-8
    with escapes), durations become seconds, sets become sorted lists, floats that JSON does
    not know become ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, integers beyond 64 bits become
    text. Of any other object only the type's name is shown, as ``<Name>``: its own ``repr``
    could fail, block or hold secrets.

    Bounded: 6 levels, 100 items of one container, 1,000 values altogether, 1,000 characters
    of one string. What is cut off is marked with ``…``, a container inside itself with
    ``<cycle>``.

    Example:
        >>> json_safe({"limit": float("inf"), "states": {"b", "a"}, "lock": object()})
        {'limit': 'Infinity', 'states': ['a', 'b'], 'lock': '<object>'}
    """
    return _Conversion().convert(value, 0)


def json_safe_mapping(values: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return ``values`` as a new dict that is safe for JSON; see `json_safe`."""
    result: Any = json_safe(dict(values))
    checked: dict[str, JsonValue] = result
    return checked


def safe_text(value: object) -> str:
    """Return ``value`` itself where it is text that encodes to UTF-8, else the nearest to it."""
    try:
        text = value if type(value) is str else str(value)
        if not text.isascii():
            # Lone surrogates cannot be encoded and would break the response or log line later.
            text = text.encode("utf-8", "replace").decode("utf-8")
    except Exception:  # noqa: BLE001 - a hostile __str__ must not hide the error being made
        return f"<{type(value).__name__}>"
    return text


class _Conversion:
    __slots__ = ("_open", "_room")

    def __init__(self) -> None:
        self._room = MAX_NODES
        self._open: set[int] = set()

    def convert(self, value: object, depth: int) -> JsonValue:
        self._room -= 1
        try:
            if type(value) is str or type(value) is int or value is None:
                return _scalar(value)
            if isinstance(value, Mapping | list | tuple | set | frozenset):
                return self._container(value, depth)
            return self._special(value, depth)
        except Exception:  # noqa: BLE001 - foreign methods may raise anything
            return f"<{type(value).__name__}>"

    def _container(
        self, value: Mapping[object, object] | Iterable[object], depth: int
    ) -> JsonValue:
        if id(value) in self._open:
            return "<cycle>"
        if depth >= MAX_DEPTH or self._room <= 0:
            return "…"
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, depth)
            return self._sequence(value, depth)
        finally:
            self._open.discard(id(value))

    def _mapping(self, value: Mapping[object, object], depth: int) -> JsonValue:
        result: dict[str, JsonValue] = {}
        for key, item in value.items():
            if len(result) >= MAX_ITEMS or self._room <= 0:
                result["…"] = "…"
                break
            name = key if type(key) is str else str(self.convert(key, MAX_DEPTH))
            result[_cut(safe_text(name))] = self.convert(item, depth + 1)
        return result

    def _sequence(self, value: Iterable[object], depth: int) -> JsonValue:
        result: list[JsonValue] = []
        items = iter(value)
        for item in islice(items, MAX_ITEMS):
            if self._room <= 0:
                return [*result, "…"]
            result.append(self.convert(item, depth + 1))
        if isinstance(value, set | frozenset):
            result.sort(key=lambda item: (type(item).__name__, str(item)))
        if next(items, items) is not items:
            result.append("…")
        return result

    def _special(self, value: object, depth: int) -> JsonValue:
        from collections import deque  # noqa: PLC0415 - not every service needs them
        from enum import Enum  # noqa: PLC0415

        if isinstance(value, Enum):
            return self.convert(value.value, depth)
        if isinstance(value, str | int | float):
            return _scalar(value)
        if isinstance(value, deque):
            return self._container(value, depth)
        return _foreign(value)


def _scalar(value: str | float | None) -> JsonValue:
    if isinstance(value, str):
        # A subclass may have a method of its own for everything; take its characters.
        return _cut(safe_text(value if type(value) is str else str.__str__(value)))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        whole, bits = int.__index__(value), int.bit_length(value)
        # CPython refuses to print more than 4,300 digits.
        return whole if bits < 64 else str(whole) if bits <= 1024 else f"<int of {bits} bits>"
    return _float(float.__float__(value))


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _foreign(value: object) -> JsonValue:
    from datetime import date, time, timedelta  # noqa: PLC0415 - not every service needs it

    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value[: MAX_TEXT + 1]).decode("utf-8", "backslashreplace"))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PathLike):
        return _cut(safe_text(fspath(value)))
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__}
    if names & _SHOWN_AS_TEXT:
        return _cut(safe_text(value))
    return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
