"""Making entities from rows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, TypeAdapter

from common.db.core._errors import EntityDefinitionError, StoredDataError
from common.db.core._field import LOAD, FieldInfo
from common.db.core._kind import Kind

E = TypeVar("E")
M = TypeVar("M", bound=BaseModel)

Row = Sequence[Any]


def model_builder(
    model: type[M], fields: Sequence[FieldInfo]
) -> Callable[[Sequence[Row]], list[M]]:
    """Return what makes models from rows, in one validation."""
    names = tuple(each.name for each in fields)
    adapter: list[TypeAdapter[list[M]]] = []

    def build(rows: Sequence[Row]) -> list[M]:
        if not adapter:  # a model may be declared before the types it refers to
            adapter.append(TypeAdapter(list[model]))  # type: ignore[valid-type]
        values = [dict(zip(names, row, strict=True)) for row in rows]
        try:
            return adapter[0].validate_python(values, **LOAD)
        except pydantic.ValidationError as error:
            raise _unfit(model, error) from None

    return build


def dataclass_builder(
    cls: type[E], fields: Sequence[FieldInfo]
) -> Callable[[Sequence[Row]], list[E]]:
    """Return what makes dataclasses from rows.

    Raises:
        EntityDefinitionError: A field is no argument of the constructor.
    """
    declared = dataclasses.fields(cls)  # type: ignore[arg-type]
    for each in declared:
        if not each.init:
            raise EntityDefinitionError(
                f"{cls.__name__}.{each.name} cannot be loaded: it has init=False",
                entity=cls.__name__,
            )
    positional = not any(each.kw_only for each in declared)
    names = tuple(each.name for each in fields)
    converters = [
        (position, each)
        for position, each in enumerate(fields)
        if each.enum is not None or each.kind is Kind.JSON
    ]

    def build(rows: Sequence[Row]) -> list[E]:
        try:
            if converters:
                rows = _converted(rows, converters)
            if positional:
                return [cls(*row) for row in rows]
            return [cls(**dict(zip(names, row, strict=True))) for row in rows]
        except pydantic.ValidationError as error:
            raise _unfit(cls, error) from None
        except (TypeError, ValueError, KeyError) as error:
            raise StoredDataError(f"a stored row does not fit {cls.__name__}") from error

    return build


def _converted(rows: Sequence[Row], converters: Sequence[tuple[int, FieldInfo]]) -> Sequence[Row]:
    columns = list(zip(*rows, strict=True))
    for position, each in converters:
        if each.enum is not None:
            members = {**each.members, None: None}
            columns[position] = tuple(members[value] for value in columns[position])
        else:
            load = each.adapter.validate_python
            columns[position] = tuple(
                None if value is None else load(value, **LOAD) for value in columns[position]
            )
    return list(zip(*columns, strict=True))


def _unfit(cls: type, error: pydantic.ValidationError) -> StoredDataError:
    # Not chained, and without the values: pydantic's message quotes what is stored.
    places = {
        ".".join(str(part) for part in each["loc"][1:])
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    }
    return StoredDataError(
        f"a stored row does not fit {cls.__name__}: {', '.join(sorted(places)) or 'its value'}"
    )
