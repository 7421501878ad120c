"""JSON Schemas of message classes, with one set of definitions, as AsyncAPI wants them."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from pydantic.json_schema import models_json_schema

from common.domain import Message

Schema = dict[str, Any]

_MANY = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_ONE = frozenset({"items", "additionalProperties", "propertyNames", "contains", "not"})


def schemas_of(
    classes: Sequence[type[Message]], template: str
) -> tuple[list[str], dict[str, Schema]]:
    """Return the names of the classes' definitions, and all definitions.

    Args:
        classes: Message classes.
        template: Of references, with ``{model}`` for the name.
    """
    if not classes:
        return [], {}
    keyed, raw = models_json_schema(
        [(cls, "validation") for cls in classes], by_alias=False, ref_template=template
    )
    definitions = cast("dict[str, Schema]", raw.get("$defs", {}))
    names = [keyed[cls, "validation"]["$ref"].rpartition("/")[2] for cls in classes]
    return names, definitions


def draft_07(schema: Schema) -> Schema:
    """Return a schema of pydantic's, of draft 2020-12, in the words of draft 7, as AsyncAPI has it.

    There a reference stands alone, tuples are ``items``, and ``discriminator`` is a text.
    """
    return cast("Schema", _walked(schema, _keywords))


def _keywords(schema: Schema) -> Schema:
    schema.pop("discriminator", None)
    if "prefixItems" in schema:
        rest = schema.pop("items", None)
        schema["items"] = schema.pop("prefixItems")
        if rest is not None:
            schema["additionalItems"] = rest
    if "$ref" in schema and len(schema) > 1:
        schema["allOf"] = [{"$ref": schema.pop("$ref")}]
    return schema


def _walked(schema: object, change: Callable[[Schema], Schema]) -> object:
    """Change a schema and all within it; what is no schema, such as a default, stays."""
    if not isinstance(schema, dict):
        return schema
    found: Schema = {}
    for keyword, value in cast("Schema", schema).items():
        if keyword in _MANY:
            found[keyword] = {name: _walked(inner, change) for name, inner in value.items()}
        elif keyword in _LISTS:
            found[keyword] = [_walked(inner, change) for inner in value]
        elif keyword in _ONE:
            found[keyword] = _walked(value, change)
        else:
            found[keyword] = value
    return change(found)
