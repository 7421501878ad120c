"""The mark on fields that must not show in a log or a repr, and what finds it."""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, GetJsonSchemaHandler, JsonValue
from pydantic_core import CoreSchema

from common.domain._annotations import models_in, parts

MASK = "**********"
"""What is shown in place of a sensitive value."""


class Sensitive:
    """Marks a type as personal or secret: ``Annotated[str, Sensitive()]``.

    Reprs of `ValueObject`s mask such fields, `masked` dumps a model without them,
    `sensitive_fields` names them, and their JSON Schema carries ``"x-sensitive": true``.
    What goes over the wire (``model_dump``, ``model_dump_json``) is the real value.
    """

    __slots__ = ()

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler.resolve_ref_schema(handler(schema)), "x-sensitive": True}

    def __repr__(self) -> str:
        return "Sensitive()"


@lru_cache(maxsize=1024)
def sensitive_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the dotted paths of a model's sensitive fields, those of nested models included.

    Lists, mappings and unions do not show in a path: the e-mail addresses in
    ``recipients: list[Recipient]`` are ``"recipients.email"``. Of a model that contains itself
    the first level is named.

    Args:
        model: Any pydantic model class.

    Example:
        >>> from common.domain.notification import SendEmail
        >>> sorted(sensitive_fields(SendEmail))[:2]
        ['recipient.dynamic_content', 'recipient.email']
    """
    return frozenset(_paths(model, ()))


def masked(model: BaseModel) -> dict[str, JsonValue]:
    """Dump a model as JSON-safe data in which sensitive values are replaced by `MASK`.

    Example:
        >>> from common.domain.calls import CallCompleted
        >>> event = CallCompleted(
        ...     call_id="c-1", phone_number="+4930901820", duration_seconds=7, status="completed"
        ... )
        >>> masked(event)["phone_number"]
        '**********'
    """
    data: dict[str, JsonValue] = model.model_dump(mode="json")
    _mask(model, data)
    return data


@lru_cache(maxsize=1024)
def own_sensitive_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the fields which bear the mark themselves."""
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if _marks(field.metadata) or _is_marked(field.annotation)
    )


def _paths(model: type[BaseModel], parents: tuple[type[BaseModel], ...]) -> Iterator[str]:
    own = own_sensitive_fields(model)
    yield from own
    for name, field in model.model_fields.items():
        if name in own:
            continue
        for inner in models_in(field.annotation):
            if inner not in parents and inner is not model:
                yield from (f"{name}.{path}" for path in _paths(inner, (*parents, model)))


def _is_marked(annotation: object) -> bool:
    return any(
        get_origin(each) is Annotated and _marks(get_args(each)[1:]) for each in parts(annotation)
    )


def _marks(metadata: object) -> bool:
    return isinstance(metadata, list | tuple) and any(isinstance(m, Sensitive) for m in metadata)


def _mask(value: object, data: object) -> None:
    """Mask what is sensitive in ``data``, the dump of ``value``."""
    # By walking the value: paths of a model that contains itself would have no end.
    if isinstance(data, dict):
        if isinstance(value, BaseModel):
            hidden = own_sensitive_fields(type(value))
            for name in type(value).model_fields:
                if name in hidden and data.get(name) is not None:
                    data[name] = MASK
                else:
                    _mask(getattr(value, name), data.get(name))
        elif isinstance(value, Mapping):
            for inner, dumped in zip(value.values(), data.values(), strict=False):
                _mask(inner, dumped)
    elif isinstance(data, list) and isinstance(value, Collection):
        for inner, dumped in zip(value, data, strict=False):
            _mask(inner, dumped)
