"""Declaring pydantic models and dataclasses as entities."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum, Flag
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import BaseModel
from pydantic.fields import FieldInfo as PydanticField

from common.db.core._build import dataclass_builder, model_builder
from common.db.core._entity import EntityInfo, Row, Unique, as_names
from common.db.core._errors import EntityDefinitionError
from common.db.core._field import FieldInfo
from common.db.core._kind import KIND_OF_TYPE, Kind

E = TypeVar("E")

_INFO = "__common_entity_info__"
_DECLARATION = "__common_entity__"
# By name: importing them all costs more than they are worth to most.
_PYDANTIC_KINDS: Mapping[str, Kind] = {
    "AwareDatetime": Kind.DATETIME,
    "EmailStr": Kind.TEXT,
    "PastDate": Kind.DATE,
    "PastDatetime": Kind.DATETIME,
}


@dataclasses.dataclass(frozen=True)
class _Declaration:
    table: str
    key: tuple[str, ...]
    version: str | None
    tenant: tuple[str, ...]
    deleted: str | None
    created: str | None
    updated: str | None
    unique: tuple[Unique, ...]


def entity(
    *,
    table: str,
    key: str | Iterable[str] = "id",
    version: str | None = None,
    tenant: str | Iterable[str] = (),
    deleted: str | None = None,
    created: str | None = None,
    updated: str | None = None,
    unique: Iterable[Unique | Iterable[str]] = (),
) -> Callable[[type[E]], type[E]]:
    """Declare a pydantic model or a dataclass as stored in a database.

    Annotations decide the kinds of the fields: `bool`, `int`, `float`, `Decimal`, `str`, `bytes`,
    `UUID`, `datetime`, `date`, enumerations of text or int, and for anything else that pydantic
    can turn into JSON (models, lists, dicts) an opaque JSON field. ``Annotated[X, Kind.JSON]``
    stores a type that is not known here as what pydantic makes of it. Constraints that a field
    declares (bounds, patterns, ``Literal``) hold for all that is written.

    Args:
        table: Name of the table, container or folder.
        key: The primary key's field, or fields.
        version: The field that makes lost updates impossible; an int, or text for an etag.
        tenant: The field, or fields, that say whose row it is.
        deleted: A ``datetime | None`` field: with it, `delete` only marks.
        created: A datetime field which the backend sets on insert.
        updated: A datetime field which the backend sets on every write.
        unique: Unique constraints, each a `Unique` or the names of its fields.

    Example:
        >>> @entity(table="calls", version="version", unique=[("number",)])
        ... @dataclasses.dataclass
        ... class Call:
        ...     id: int
        ...     number: str
        ...     version: int = 0
        >>> entity_info(Call).field("number").kind
        <Kind.TEXT: 'text'>
    """
    declaration = _Declaration(
        table=table,
        key=as_names(key),
        version=version,
        tenant=as_names(tenant),
        deleted=deleted,
        created=created,
        updated=updated,
        unique=tuple(
            each if isinstance(each, Unique) else Unique(as_names(each)) for each in unique
        ),
    )

    def declare(cls: type[E]) -> type[E]:
        setattr(cls, _DECLARATION, declaration)
        return cls

    return declare


def entity_info(cls: type[E]) -> EntityInfo[E]:
    """Return what is known about a stored class.

    A class that is neither a pydantic model nor a dataclass has a class method
    ``__entity_info__`` which returns its `EntityInfo`.

    Raises:
        EntityDefinitionError: The class is not declared with `entity`, or cannot be stored.
        UnknownFieldError: The declaration names a field that the class does not have.
    """
    known = getattr(cls, "__dict__", {}).get(_INFO)
    if known is None:
        known = _derive(cls)
        setattr(cls, _INFO, known)
    return known


def _derive(cls: type[E]) -> EntityInfo[E]:
    describe = getattr(cls, "__entity_info__", None)
    if describe is not None:
        return describe()  # type: ignore[no-any-return]
    name = getattr(cls, "__name__", repr(cls))
    declaration = getattr(cls, _DECLARATION, None)
    if declaration is None or not isinstance(cls, type):
        raise EntityDefinitionError(
            f"{name} is no entity: decorate it with @entity(table=...)", entity=name
        )
    fields: tuple[FieldInfo, ...]
    build: Callable[[Sequence[Row]], list[Any]]
    hints = _hints(cls)
    if issubclass(cls, BaseModel):
        fields = tuple(
            _field(name, key, [each.annotation, *each.metadata])
            for key, each in cls.model_fields.items()
        )
        build = model_builder(cls, fields)
    elif dataclasses.is_dataclass(cls):
        fields = tuple(
            _field(name, each.name, [hints[each.name]]) for each in dataclasses.fields(cls)
        )
        build = dataclass_builder(cls, fields)
    else:
        raise EntityDefinitionError(
            f"{name} is neither a pydantic model nor a dataclass: give it a class method "
            "__entity_info__",
            entity=name,
        )
    parts = {each.name: getattr(declaration, each.name) for each in dataclasses.fields(declaration)}
    return EntityInfo(entity=cls, fields=fields, build=build, **parts)


def _hints(cls: type) -> dict[str, Any]:
    """Return a class's annotations, with all that they refer to; those of a model it keeps."""
    try:
        if issubclass(cls, BaseModel):
            cls.model_rebuild()
            return {}
        return get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise EntityDefinitionError(
            f"{cls.__name__} refers to {error.name}, which is not defined in its module",
            entity=cls.__name__,
        ) from error


def _field(entity_name: str, name: str, parts: Sequence[Any]) -> FieldInfo:
    annotation, metadata, nullable = _unwrap(parts[0])
    metadata = [
        inner
        for each in (*metadata, *parts[1:])
        for inner in (each.metadata if isinstance(each, PydanticField) else (each,))
    ]
    kind, enum = _kind(annotation, metadata)
    if kind is None:
        raise EntityDefinitionError(
            f"{entity_name}.{name} cannot be stored as {annotation}: use another type, or store "
            "what pydantic makes of it with Annotated[..., Kind.JSON]",
            entity=entity_name,
        )
    lengths = [limit for each in metadata if (limit := getattr(each, "max_length", None))]
    return FieldInfo(
        name=name,
        kind=kind,
        nullable=nullable,
        max_length=min(lengths) if lengths and kind in (Kind.TEXT, Kind.BYTES) else None,
        enum=enum,
        annotation=Annotated[(annotation, *metadata)] if metadata else annotation,
        validated=_says_more(annotation, kind, metadata),
    )


def _says_more(annotation: Any, kind: Kind, metadata: Iterable[Any]) -> bool:
    """Tell whether a declaration refuses values that are fine for the field's kind."""
    constraints = [
        each
        for each in metadata
        if not isinstance(each, Kind | str) and type(each).__name__ != "MaxLen"
    ]
    if constraints or kind is Kind.JSON:
        return bool(constraints) or annotation is not Any
    return get_origin(annotation) is Literal or hasattr(annotation, "__get_pydantic_core_schema__")


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Take off ``Annotated``, ``| None`` and ``NewType``."""
    metadata: list[Any] = []
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += more
        elif get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation):
            nullable = True
            annotation = Union[  # noqa: UP007 - made at run time
                tuple(each for each in get_args(annotation) if each is not type(None))
            ]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        else:
            return annotation, metadata, nullable or annotation is Any


def _kind(annotation: Any, metadata: Iterable[Any]) -> tuple[Kind | None, type[Enum] | None]:
    named = next((each for each in metadata if isinstance(each, Kind)), None)
    if named is not None:
        return named, None
    if annotation is Any:
        return Kind.JSON, None
    if get_origin(annotation) is Literal:
        return _kind_of_values(get_args(annotation)), None
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        kind = _kind_of_values([member.value for member in annotation])
        fits = kind in (Kind.TEXT, Kind.INT) and not issubclass(annotation, Flag)
        return (kind if fits else None), annotation  # combinations of flags are no members
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return _kind_of_class(annotation), None
    return (None if get_origin(annotation) is None else Kind.JSON), None


def _kind_of_class(cls: type) -> Kind | None:
    if cls.__module__.startswith("pydantic.") and cls.__name__ in _PYDANTIC_KINDS:
        return _PYDANTIC_KINDS[cls.__name__]
    for type_, kind in KIND_OF_TYPE.items():
        if issubclass(cls, type_):
            return kind
    structured = (
        issubclass(cls, BaseModel | dict | list | tuple | set | frozenset)
        or dataclasses.is_dataclass(cls)
        or is_typeddict(cls)
    )
    return Kind.JSON if structured else None


def _kind_of_values(values: Collection[Any]) -> Kind | None:
    types = {type(value) for value in values}
    return KIND_OF_TYPE.get(types.pop()) if len(types) == 1 else None
