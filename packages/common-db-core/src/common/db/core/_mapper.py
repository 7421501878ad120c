"""Mapping between what is stored and what an API takes and gives."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

import pydantic
from pydantic import BaseModel, TypeAdapter

from common.db.core._errors import StoredDataError
from common.db.core._names import unknown_field
from common.errors import ValidationError

M = TypeVar("M")
C = TypeVar("C", bound=BaseModel)
P = TypeVar("P", bound=BaseModel)
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - Model, Create, Patch, Out

_BY_NAME: Final[Any] = {"from_attributes": True, "by_alias": False, "by_name": True}


class Mapper(Generic[M, C, P, O]):
    """Turns create models into entities, patches into changes, entities into what is given out.

    Args:
        model: The stored class: a pydantic model, a dataclass, or any class whose constructor
            takes its fields.
        create: What a caller creates it from.
        patch: What a caller changes it with; each field has a default, and only those that were
            set are applied, also when they were set to null.
        out: What a caller sees: a pydantic model or a dataclass, filled from attributes.

    Raises:
        UnknownFieldError: ``create`` or ``patch`` has a field that ``model`` lacks; at
            construction, with a suggestion.

    Example:
        >>> class CallIn(BaseModel):
        ...     number: str
        >>> class CallPatch(BaseModel):
        ...     number: str | None = None
        ...     note: str | None = None
        >>> @dataclasses.dataclass
        ... class Call:
        ...     id: int
        ...     number: str
        ...     note: str | None = "new"
        >>> class CallOut(BaseModel):
        ...     id: int
        ...     number: str
        >>> mapper = Mapper(Call, CallIn, CallPatch, CallOut)
        >>> call = mapper.to_model(CallIn(number="+49"), id=1)
        >>> mapper.changes(CallPatch(note=None))
        {'note': None}
        >>> mapper.apply(call, CallPatch(note=None))
        Call(id=1, number='+49', note=None)
        >>> mapper.to_out_list([call])
        [CallOut(id=1, number='+49')]
    """

    def __init__(self, model: type[M], create: type[C], patch: type[P], out: type[O]) -> None:
        self._model = model
        self._fields = _names(model)
        for source in (create, patch):
            self._known(source.model_fields)
        self._taken = _names(out)
        self._out: TypeAdapter[O] = TypeAdapter(out)
        self._outs: TypeAdapter[list[O]] = TypeAdapter(list[out])  # type: ignore[valid-type]

    def to_model(self, create: C, /, **more: object) -> M:
        """Return a new entity.

        Args:
            create: What the caller gave.
            **more: Fields that are not the caller's to give: id, tenant.

        Raises:
            UnknownFieldError: ``more`` names a field that the entity does not have.
            ValidationError: The entity does not accept the values, naming the fields.
        """
        self._known(more)
        return self._made({**_values(create, type(create).model_fields), **more})

    def changes(self, patch: P) -> dict[str, object]:
        """Return what was set in a patch, for `Repository.update`."""
        return _values(patch, patch.model_fields_set)

    def apply(self, model: M, patch: P) -> M:
        """Return a copy of an entity with the patch applied, validated as a whole.

        Raises:
            ValidationError: The result is not valid, naming the fields.
        """
        names = _names(type(model)) or vars(model)
        return self._made({**{name: getattr(model, name) for name in names}, **self.changes(patch)})

    def to_out(self, model: M) -> O:
        """Return what the caller sees of an entity.

        Raises:
            StoredDataError: It does not fit, naming the fields.
        """
        return self._shown(self._out, self._source(model))

    def to_out_list(self, models: Iterable[M]) -> list[O]:
        """Return what the caller sees of many entities, in one validation; see `to_out`."""
        return self._shown(self._outs, list(map(self._source, models)))

    def _known(self, names: Iterable[str]) -> None:
        for name in names:
            if self._fields is not None and name not in self._fields:
                raise unknown_field(self._model.__name__, name, self._fields)

    def _source(self, model: M) -> object:
        # By name: pydantic would look for attributes by their aliases, and for dataclasses not.
        if self._taken is None:
            return model
        return {name: getattr(model, name) for name in self._taken if hasattr(model, name)}

    def _made(self, values: dict[str, object]) -> M:
        try:
            if issubclass(self._model, BaseModel):
                return self._model.model_validate(values, **_BY_NAME)
            return self._model(**values)
        except pydantic.ValidationError as error:
            places = _places(error)
            raise ValidationError(
                f"{self._model.__name__} does not accept {', '.join(places) or 'these values'}",
                field=places[0] if places else None,
            ) from None

    def _shown(self, adapter: TypeAdapter[T], source: object) -> T:
        try:
            return adapter.validate_python(source, **_BY_NAME)
        except pydantic.ValidationError as error:
            # Neither the caller's fault nor with the values, which pydantic quotes.
            raise StoredDataError(
                f"a {self._model.__name__} does not fit what is shown of it: "
                f"{', '.join(_places(error)) or 'its value'}"
            ) from None


def _places(error: pydantic.ValidationError) -> list[str]:
    """Return the fields that an error of pydantic is about."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [".".join(map(str, each["loc"])) for each in found if each["loc"]]


def _names(model: type) -> tuple[str, ...] | None:
    """Return the names of a class's fields; ``None`` where only its constructor knows."""
    if issubclass(model, BaseModel):
        return tuple(model.model_fields)
    if dataclasses.is_dataclass(model):
        return tuple(each.name for each in dataclasses.fields(model))
    info = getattr(model, "__entity_info__", None)
    return tuple(info().names) if info is not None else None


def _values(source: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    # Attributes and not model_dump(): nested models stay what they are.
    return {name: getattr(source, name) for name in type(source).model_fields if name in names}
