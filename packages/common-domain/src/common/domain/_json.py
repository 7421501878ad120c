"""Free-form JSON inside a message, with bounds."""

import math
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from common.domain._problems import OWN

MAX_DEPTH = 32
"""Levels of nesting allowed."""
MAX_NODES = 10_000
"""Values allowed in all, containers included."""
MAX_INTEGER = 2**63 - 1
"""Largest absolute value of an integer."""


class _Bounded:
    """Validates JSON data by one walk, which also copies it: the message owns its content."""

    __slots__ = ("object_only",)

    def __init__(self, *, object_only: bool) -> None:
        self.object_only = object_only

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, core_schema.any_schema())

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "object"} if self.object_only else {}

    def check(self, value: object) -> JsonValue:
        if self.object_only and not isinstance(value, dict):
            raise _error("must be a JSON object")
        return _Walk().copy(value, 0)


class _Walk:
    __slots__ = ("nodes",)

    def __init__(self) -> None:
        self.nodes = 0

    def copy(self, value: object, depth: int) -> JsonValue:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _error(f"must not have more than {MAX_NODES} values")
        match value:
            case None | bool():
                return value
            case str():
                return _text(value)
            case int():
                if abs(value) > MAX_INTEGER:
                    raise _error("must not have integers of more than 64 bits: send them as text")
                return int(value)
            case float():
                if not math.isfinite(value):
                    raise _error("must not have NaN or infinities")
                return float(value)
            case dict() | list():
                return self.container(value, depth)
            case _:
                raise _error(
                    f"must be JSON data, without {type(value).__name__}: convert it before, "
                    "for example with model_dump(mode='json')"
                )

    def container(self, value: dict[object, object] | list[object], depth: int) -> JsonValue:
        if depth == MAX_DEPTH:
            raise _error(f"must not be nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {_key(key): self.copy(item, depth + 1) for key, item in value.items()}
        return [self.copy(item, depth + 1) for item in value]


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise _error("must have text as keys")
    return _text(key)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _error("must not have unpaired surrogates in its text") from None
    return str.__str__(value)


def _error(problem: str) -> PydanticCustomError:
    # The constructor formats the message with braces; nothing of the input goes into it.
    return PydanticCustomError(OWN, "{problem}", {"problem": problem})


JsonObject = Annotated[dict[str, JsonValue], _Bounded(object_only=True)]
"""A JSON object of at most `MAX_DEPTH` levels and `MAX_NODES` values."""

JsonData = Annotated[JsonValue, _Bounded(object_only=False)]
"""Any JSON value within the same bounds."""
