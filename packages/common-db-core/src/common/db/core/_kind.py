"""The closed set of field kinds: which values each takes, and how cursors spell them."""

# ruff: noqa: TRY004 - every value that does not fit is a ValueError here, whatever is wrong with it

import base64
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

MAX_DECIMAL_DIGITS: Final = 38
"""Digits before and after the point, the most that Delta Lake and SQL Server store."""

_MAX_JSON_DEPTH: Final = 64


class Kind(StrEnum):
    """What a field holds, seen from a database.

    ``INT`` has 64 bits, ``FLOAT`` is finite, ``DATETIME`` is aware and kept in UTC, ``JSON`` is
    opaque: it can be stored and checked for null, not compared.
    """

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    DECIMAL = "decimal"
    TEXT = "text"
    BYTES = "bytes"
    UUID = "uuid"
    DATETIME = "datetime"
    DATE = "date"
    JSON = "json"


KIND_OF_TYPE: Final[Mapping[type, Kind]] = {
    bool: Kind.BOOL,
    int: Kind.INT,
    float: Kind.FLOAT,
    Decimal: Kind.DECIMAL,
    str: Kind.TEXT,
    bytes: Kind.BYTES,
    UUID: Kind.UUID,
    datetime: Kind.DATETIME,
    date: Kind.DATE,
}
TYPE_OF_KIND: Final[Mapping[Kind, type]] = {kind: type_ for type_, kind in KIND_OF_TYPE.items()}


def normalise(kind: Kind, value: object, max_bytes: int) -> object:
    """Return ``value`` as it is stored.

    Args:
        kind: The field's kind.
        value: Any value but ``None``.
        max_bytes: Most bytes that text (as UTF-8), bytes or JSON may take.

    Raises:
        ValueError: With a sentence that follows the field's name, and without the value.
    """
    return _NORMALISE[kind](value, max_bytes)


def _bool(value: object, _: int) -> bool:
    if type(value) is not bool:
        raise ValueError("must be a bool")
    return value


def _int(value: object, _: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("must be an int")
    plain = int.__int__(value)  # a subclass may have its own idea of comparing
    if not -(2**63) <= plain < 2**63:
        raise ValueError("must fit into 64 bits")
    return plain


def _float(value: object, _: int) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise ValueError("must be a float")
    if isinstance(value, int) and abs(value) > 2**53:
        raise ValueError("must be a float, and a float cannot hold so large an int exactly")
    if not math.isfinite(value):
        raise ValueError("must be finite, not NaN or infinite")
    return float(value)


def _decimal(value: object, _: int) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise ValueError("must be a Decimal")
    if isinstance(value, int) and abs(value) >= 10**MAX_DECIMAL_DIGITS:
        raise ValueError(f"must have at most {MAX_DECIMAL_DIGITS} digits before the point")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("must be finite, not NaN or infinite")
    exponent = number.as_tuple().exponent
    if number and number.adjusted() >= MAX_DECIMAL_DIGITS:
        raise ValueError(f"must have at most {MAX_DECIMAL_DIGITS} digits before the point")
    if not isinstance(exponent, int) or -exponent > MAX_DECIMAL_DIGITS:
        raise ValueError(f"must have at most {MAX_DECIMAL_DIGITS} digits after the point")
    # Servers know no negative zero, nor one with an exponent: 0E+99 would be 99 digits long.
    return number or Decimal((0, (), min(exponent, 0)))


def _text(value: object, max_bytes: int) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a str")
    if type(value) is not str:
        # Not str(value): that of a (str, Enum) would be the name of the member.
        value = str.__str__(value)
    if "\0" in value:
        raise ValueError("must not contain the character NUL")
    if len(value) > max_bytes:
        raise ValueError(f"must be at most {max_bytes} bytes long")
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValueError("must not contain half of a surrogate pair") from None
        if size > max_bytes:
            raise ValueError(f"must be at most {max_bytes} bytes long")
    return value


def _bytes(value: object, max_bytes: int) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError("must be bytes")
    if memoryview(value).nbytes > max_bytes:
        raise ValueError(f"must be at most {max_bytes} bytes long")
    return bytes(value)


def _uuid(value: object, _: int) -> UUID:
    if not isinstance(value, UUID):
        raise ValueError("must be a UUID")
    # A driver's own subclass, such as asyncpg's, pickles and prints differently.
    return value if type(value) is UUID else UUID(bytes=value.bytes)


def _datetime(value: object, _: int) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError("must be a datetime")
    if value.utcoffset() is None:
        raise ValueError("must be an aware datetime: give it a time zone")
    if value.tzinfo is UTC:
        return value
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from None


def _date(value: object, _: int) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError("must be a date")
    return value


def _json(value: object, max_bytes: int) -> object:
    _walk(value, [max_bytes], 0)
    return value


def _walk(value: object, room: list[int], depth: int) -> None:
    """Check plain JSON data, and take its size from ``room``."""
    if depth > _MAX_JSON_DEPTH:
        raise ValueError(f"must be nested at most {_MAX_JSON_DEPTH} deep")
    room[0] -= 1
    if room[0] < 0:
        raise ValueError("is too large")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError("must have only text as keys")
            _walk(key, room, depth + 1)
            _walk(item, room, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _walk(item, room, depth + 1)
    elif isinstance(value, str):
        room[0] -= len(_text(value, room[0]).encode())
    elif value is not None and not isinstance(value, bool):
        check = _float if isinstance(value, float) else _int
        check(value, 0)


_NORMALISE: Final[Mapping[Kind, Callable[[object, int], object]]] = {
    Kind.BOOL: _bool,
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.DECIMAL: _decimal,
    Kind.TEXT: _text,
    Kind.BYTES: _bytes,
    Kind.UUID: _uuid,
    Kind.DATETIME: _datetime,
    Kind.DATE: _date,
    Kind.JSON: _json,
}


def plain_column(kind: Kind, values: list[object], max_bytes: int) -> bool:
    """Tell, at the speed of C, whether all of ``values`` are stored just as they are.

    ``False`` only means that each value has to be looked at on its own.
    """
    plain = _PLAIN.get(kind)
    if plain is None or not values:
        return False
    if list(map(type, values)).count(TYPE_OF_KIND[kind]) != len(values):
        return False
    return plain(values, max_bytes)


def _plain_text(values: list[str], max_bytes: int) -> bool:
    joined = "".join(values)
    if "\0" in joined:
        return False
    fits = 4 * len(joined) <= max_bytes  # all together, and so each
    longest = len(joined) if fits else max(map(len, values))
    if joined.isascii():
        return longest <= max_bytes
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return 4 * longest <= max_bytes


_PLAIN: Final[Mapping[Kind, Callable[[list[Any], int], bool]]] = {
    Kind.BOOL: lambda _values, _: True,
    Kind.INT: lambda values, _: min(values) >= -(2**63) and max(values) < 2**63,
    Kind.FLOAT: lambda values, _: all(map(math.isfinite, values)),
    Kind.TEXT: _plain_text,
    Kind.BYTES: lambda values, max_bytes: max(map(len, values)) <= max_bytes,
    Kind.UUID: lambda _values, _: True,
    Kind.DATETIME: lambda values, _: all(value.tzinfo is UTC for value in values),
    Kind.DATE: lambda _values, _: True,
}


def encode(kind: Kind, value: object) -> str | None:
    """Spell a stored value as text, the same way everywhere."""
    if value is None:
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, Decimal):
        return _spell_decimal(value)
    return repr(value) if kind is Kind.FLOAT else str(value)


def _spell_decimal(value: Decimal) -> str:
    # Equal numbers get equal spellings: 1.0 and 1.00 are the same key.
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def decode(kind: Kind, text: str | None, max_bytes: int) -> object:
    """Read what `encode` wrote.

    Raises:
        ValueError: The text is not of this kind.
    """
    if text is None:
        return None
    try:
        value = _DECODE[kind](text)
    except (ArithmeticError, KeyError, ValueError):
        raise ValueError(f"is not {kind}") from None
    return normalise(kind, value, max_bytes)


_DECODE: Final[Mapping[Kind, Callable[[str], object]]] = {
    Kind.BOOL: {"0": False, "1": True}.__getitem__,
    Kind.INT: int,
    Kind.FLOAT: float,
    Kind.DECIMAL: Decimal,
    Kind.TEXT: str,
    Kind.BYTES: lambda text: base64.b64decode(text, validate=True),
    Kind.UUID: UUID,
    Kind.DATETIME: datetime.fromisoformat,
    Kind.DATE: date.fromisoformat,
}
