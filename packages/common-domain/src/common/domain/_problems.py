"""What is wrong with the data of a message, told without the data."""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from common.domain._annotations import models_in, parts

OWN = "common_domain"
"""Type of the errors of this package's own rules, whose texts never hold the value."""

_QUOTING = {
    "assertion_error",
    "bytes_invalid_encoding",
    "get_attribute_error",
    "iteration_error",
    "mapping_type",
    "timezone_offset",
    "union_tag_invalid",
    "uuid_parsing",
    "value_error",
}
# pydantic's own texts, which never hold the value; all others may.
_SAFE = frozenset(get_args(ErrorType)) - _QUOTING | {OWN}


def problem(model: type[BaseModel], error: ErrorDetails) -> str:
    """Return ``"path: problem"``, in which only names of the code and pydantic's texts appear."""
    return f"{_path(model, error['loc']) or 'data'}: {_text(error)}"[:500]


def errors(error: ValidationError) -> list[ErrorDetails]:
    """Return the details of an error, as `problem` takes them."""
    return error.errors(include_url=False, include_input=False)


def where(traceback: TracebackType | None) -> str:
    """Return ``" (file:line)"`` of the outermost frame: where to look, without what was said."""
    if traceback is None:
        return ""
    file = traceback.tb_frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f" ({file}:{traceback.tb_lineno})"


def _text(error: ErrorDetails) -> str:
    if error["type"] in _SAFE:
        return error["msg"]
    if error["type"] == "union_tag_invalid":
        return "fits none of the alternatives"
    cause = error.get("ctx", {}).get("error")
    place = where(cause.__traceback__) if isinstance(cause, Exception) else ""
    return f"is refused by a validator{place}; its text is left out, since it may quote the data"


def _path(model: type[BaseModel], location: Iterable[str | int]) -> str:
    """Name the fields on the way; mapping keys are data, and union members no part of the way."""
    path: list[str] = []
    annotation: object = model
    for part in location:
        fields = [
            (name, field)
            for each in models_in(annotation)
            for name, field in each.model_fields.items()
            if part == name or part in _aliases(field)
        ]
        if fields:
            name, field = fields[0]
            path.append(name)
            annotation = field.annotation
        elif isinstance(part, int):
            path.append(str(part))
        elif part != "[key]" and any(map(_is_mapping, parts(annotation))):
            path.append("{}")
    return ".".join(path)


def _aliases(field: FieldInfo) -> list[object]:
    alias = field.validation_alias
    return list(alias.choices) if isinstance(alias, AliasChoices) else [alias]


def _is_mapping(annotation: object) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)
