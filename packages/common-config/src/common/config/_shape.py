"""What a type annotation takes from a configuration."""

import json
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo

_NONE = type(None)


@dataclass(slots=True)
class Shape:
    """What an annotation takes.

    Attributes:
        models: The sections it may be.
        values: For mappings with free keys, the annotation of their values.
        items: For lists and the like, the annotation of their items.
        is_open: Anything at all may be below.
        is_scalar: Text of a variable is the value itself; otherwise it must be JSON.
        is_text: Any text is valid.
        is_secret: The value must not be shown.
        may_be_none: ``None`` is valid.
        label: The type in words.
        metadata: What ``Annotated`` adds.
    """

    models: tuple[type[BaseModel], ...] = ()
    values: object = None
    items: object = None
    is_open: bool = False
    is_scalar: bool = False
    is_text: bool = False
    is_secret: bool = False
    may_be_none: bool = False
    label: str = ""
    metadata: tuple[object, ...] = ()

    def __or__(self, other: "Shape") -> "Shape":
        """Return what takes what either takes."""
        labels = dict.fromkeys(each for each in (self.label, other.label) if each)
        return Shape(
            models=tuple(dict.fromkeys((*self.models, *other.models))),
            values=self.values if self.values is not None else other.values,
            items=self.items if self.items is not None else other.items,
            is_open=self.is_open or other.is_open,
            is_scalar=self.is_scalar or other.is_scalar,
            is_text=self.is_text or other.is_text,
            is_secret=self.is_secret or other.is_secret,
            may_be_none=self.may_be_none or other.may_be_none,
            label=" or ".join(labels),
            metadata=(*self.metadata, *other.metadata),
        )


_SPECIAL: Mapping[object, Shape] = {
    Any: Shape(is_scalar=True, is_open=True, is_text=True, label="anything"),
    object: Shape(is_scalar=True, is_open=True, is_text=True, label="anything"),
    None: Shape(may_be_none=True, label="null"),
    _NONE: Shape(may_be_none=True, label="null"),
}


def shape_of(annotation: object, metadata: Collection[object] = ()) -> Shape:
    """Return what ``annotation`` takes.

    Raises:
        TypeError: If it holds a dataclass or a typed dict, whose keys could not be checked.
    """
    shape = Shape(metadata=tuple(metadata))
    for member, extra in _members(annotation):
        if any(_is_json(each) for each in (*metadata, *extra)):
            part = Shape(is_scalar=True, label="JSON")  # pydantic itself reads it
        else:
            part = _shape_of_member(member)
        part.metadata = (*part.metadata, *extra)
        shape |= part
    return shape


def shapes_below(shape: Shape) -> dict[str, Shape]:
    """Return what the fields of the sections that ``shape`` takes take, by key."""
    below: dict[str, Shape] = {}
    for model in shape.models:
        for key, info in fields_of(model).items():
            own = shape_of(info.annotation, info.metadata)
            below[key] = below[key] | own if key in below else own
    return below


def verify(shape: Shape, seen: set[type[BaseModel]]) -> None:
    """Raise `TypeError` if any section within ``shape`` cannot be used; see `fields_of`."""
    for inner in (shape.values, shape.items):
        if inner is not None:
            verify(shape_of(inner), seen)
    for model in shape.models:
        if model not in seen:
            seen.add(model)
            for below in shapes_below(Shape(models=(model,))).values():
                verify(below, seen)


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the key that stands for them in files.

    Raises:
        TypeError: If a section is not frozen, or has a field that cannot be named by one key.
    """
    if not model.model_config.get("frozen"):
        raise TypeError(
            f"{model.__qualname__} is a section of settings, which never change: derive it from "
            "common.config.Section, or give it ConfigDict(frozen=True)"
        )
    if not model.__pydantic_fields_complete__:
        model.model_rebuild()  # it names types that were declared after it
    fields: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        key = _key(model, name, info)
        if "__" in key or "." in key:
            raise TypeError(
                f'{model.__qualname__}.{name} is called "{key}": rename it, since "__" and "." '
                "stand between the parts of a path"
            )
        fields[key] = info
    return fields


def names_of(model: type[BaseModel]) -> dict[str, str]:
    """Return the attribute for each key of `fields_of`."""
    return {_key(model, name, info): name for name, info in model.model_fields.items()}


def _key(model: type[BaseModel], name: str, info: FieldInfo) -> str:
    alias = info.validation_alias
    if isinstance(alias, AliasChoices | AliasPath):
        raise TypeError(
            f"{model.__qualname__}.{name} has several names or a path as its alias: give it one "
            "alias, or none"
        )
    by_name = model.model_config.get("validate_by_name") or model.model_config.get(
        "populate_by_name"
    )
    return name if alias is None or by_name else alias


def _is_json(metadata: object) -> bool:
    # `Json[T]` leaves the class among the metadata, `Annotated[T, Json()]` an object of it.
    return (metadata if isinstance(metadata, type) else type(metadata)).__name__ == "Json"


def _members(annotation: object) -> Iterator[tuple[object, tuple[object, ...]]]:
    """Yield the parts of a union with the metadata of each, without aliases and wrappers."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        for member, more in _members(inner):
            yield member, (*metadata, *more)
    elif origin is Union or origin is types.UnionType:
        for member in get_args(annotation):
            yield from _members(member)
    elif hasattr(annotation, "__value__"):  # an alias made by a type statement
        yield from _members(cast("Any", annotation).__value__)
    elif hasattr(annotation, "__supertype__"):  # a NewType
        yield from _members(cast("Any", annotation).__supertype__)
    else:
        yield annotation, ()


def _shape_of_member(member: object) -> Shape:
    kind = get_origin(member) or member
    arguments = get_args(member)
    label = _label(member)
    if member in _SPECIAL:
        return replace(_SPECIAL[member])
    if not isinstance(kind, type):
        return Shape(is_scalar=True, label=label)
    if is_dataclass(kind) or hasattr(kind, "__required_keys__"):  # of typed dicts
        raise TypeError(
            f"{kind.__qualname__} cannot be part of settings: unknown keys in it would pass "
            "unseen; make it a common.config.Section"
        )
    if issubclass(kind, RootModel):
        return shape_of(kind.model_fields["root"].annotation)
    if issubclass(kind, BaseModel):
        return Shape(models=(kind,), label=label)
    if issubclass(kind, Mapping):
        return Shape(values=arguments[1] if len(arguments) == 2 else Any, label=label)
    repeated = len(arguments) == 1 or arguments[1:] == (...,)
    is_secret = hasattr(kind, "get_secret_value")
    return Shape(
        items=(arguments[0] if repeated else Any) if _is_container(kind) else None,
        is_scalar=not _is_container(kind),
        is_text=issubclass(kind, str | bytes) or (is_secret and not arguments),
        is_secret=is_secret,
        label=label,
    )


def _is_container(kind: type) -> bool:
    """Whether it holds items, as lists do; text and enumeration classes do not count."""
    return issubclass(kind, Collection) and not issubclass(kind, str | bytes | bytearray | Enum)


def _label(member: object) -> str:
    kind = get_origin(member) or member
    if kind is Literal:
        return _choices(get_args(member))
    if not isinstance(kind, type):
        return str(member).removeprefix("typing.")
    if issubclass(kind, Enum):
        return _choices(each.value for each in kind)
    if issubclass(kind, BaseModel):
        return f"JSON object ({kind.__name__})"
    label = "JSON object" if issubclass(kind, Mapping) else "JSON list"
    return label if _is_container(kind) else kind.__name__


def _choices(values: Iterable[object]) -> str:
    return " or ".join(json.dumps(value, default=repr) for value in values)
