"""JSON Schemas of messages in a form that changes only when the messages do."""

import json
from typing import Any, cast

from pydantic import BaseModel

Schema = dict[str, Any]

KEYWORDS = (
    "additionalProperties",
    "anyOf",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "type",
    "uniqueItems",
    "x-sensitive",
)
"""What is kept. Titles, descriptions, examples and defaults do not decide what can be read."""

_DEFS = "#/$defs/"


def stable_schema(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema of what a model reads, sorted and without references.

    Definitions are put in place of their references, so that renaming a nested class changes
    nothing; only a definition that contains itself stays one.
    """
    raw = model.model_json_schema(by_alias=False, mode="validation")
    defs: dict[str, Schema] = raw.get("$defs", {})
    recursive: dict[str, Schema] = {}

    def stable(schema: object, inside: tuple[str, ...]) -> Any:
        if isinstance(schema, list):
            return [stable(item, inside) for item in cast("list[object]", schema)]
        if not isinstance(schema, dict):
            return schema
        given = cast("Schema", schema)
        if "$ref" in given:
            name = given["$ref"].removeprefix(_DEFS)
            if name in inside:
                recursive[name] = {}
                return {"$ref": _DEFS + name}
            definition = stable(defs[name], (*inside, name))
            if name not in recursive:
                return definition
            recursive[name] = definition
            return {"$ref": _DEFS + name}
        return _keywords(given, lambda item: stable(item, inside))

    # pydantic gives a model that contains itself as a reference at the top.
    result: Schema = stable({k: v for k, v in raw.items() if k != "$defs"}, ())
    if recursive:
        result = {**result, "$defs": recursive}
    return result


def _keywords(schema: Schema, stable: Any) -> Schema:
    if "allOf" in schema and len(schema["allOf"]) == 1:
        schema = {**schema["allOf"][0], **schema}
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]]}
    if "oneOf" in schema:
        schema = {**schema, "anyOf": schema["oneOf"]}
    result: Schema = {}
    for keyword in KEYWORDS:
        if keyword not in schema:
            continue
        value = schema[keyword]
        match keyword:
            case "properties" | "patternProperties":
                result[keyword] = {name: stable(inner) for name, inner in sorted(value.items())}
            case "required":
                result[keyword] = sorted(value)
            case "enum":
                result[keyword] = sorted(value, key=_text)
            case "anyOf":
                result[keyword] = sorted((stable(each) for each in value), key=_text)
            case _:
                result[keyword] = stable(value)
    return result


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
