"""The fields of a message as rows of a table."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
Definitions = Mapping[str, Schema]

_COUNTED = (
    ("minLength", "maxLength", "characters"),
    ("minItems", "maxItems", "items"),
    ("minProperties", "maxProperties", "entries"),
)
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message.

    Args:
        path: Dotted; ``[]`` is any item of a list, ``{}`` any value of a mapping.
        type: Such as ``"list of string"``.
        required: Whether it must be there.
        default: What it is otherwise, as JSON.
        sensitive: Whether it, or what it is in, is marked `Sensitive`.
        values: Those it is limited to, as text.
        limits: Such as ``"1 to 20 characters"``.
        pattern: Regular expression it matches.
        description: What the code says about it.
    """

    path: str
    type: str
    required: bool
    default: str | None
    sensitive: bool
    values: tuple[str, ...]
    limits: tuple[str, ...]
    pattern: str | None
    description: str


def fields_of(schema: Schema, definitions: Definitions) -> list[Field]:
    """Return the fields of an object, those of nested objects after each.

    Args:
        schema: Of the object.
        definitions: What references in it name.
    """
    return list(_Walk(definitions).fields(schema, "", sensitive=False, inside=()))


class _Walk:
    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def fields(
        self, schema: Schema, prefix: str, *, sensitive: bool, inside: tuple[str, ...]
    ) -> Iterator[Field]:
        required = schema.get("required", ())
        for name, inner in schema.get("properties", {}).items():
            branches = list(self._branches(inner))
            hidden = sensitive or any("x-sensitive" in each for each in [inner, *branches])
            path = f"{prefix}{name}"
            yield Field(
                path=path,
                type=self.type_text(inner),
                required=name in required,
                default=_json(inner["default"]) if "default" in inner else None,
                sensitive=hidden,
                values=tuple(_values(branches)),
                limits=tuple(_limits(branches)),
                pattern=next((each["pattern"] for each in branches if "pattern" in each), None),
                description=inner.get("description", ""),
            )
            yield from self._below(inner, path, sensitive=hidden, inside=inside)

    def _below(
        self, schema: Schema, path: str, *, sensitive: bool, inside: tuple[str, ...]
    ) -> Iterator[Field]:
        """Yield the fields of the objects that a schema holds."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in inside:  # a definition may contain itself
                yield from self._below(
                    self._definitions[name], path, sensitive=sensitive, inside=(*inside, name)
                )
            return
        for each in _alternatives(schema):
            yield from self._below(each, path, sensitive=sensitive, inside=inside)
        yield from self.fields(schema, f"{path}.", sensitive=sensitive, inside=inside)
        for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(schema.get(keyword), dict):
                yield from self._below(
                    schema[keyword], path + mark, sensitive=sensitive, inside=inside
                )

    def type_text(self, schema: Schema) -> str:
        """Return a type in words."""
        if "$ref" in schema:
            definition = self._definitions[schema["$ref"].rpartition("/")[2]]
            # Not its fields: it may contain itself.
            is_object = "properties" in definition
            return _title(definition) if is_object else self.type_text(definition)
        if alternatives := _alternatives(schema):
            return " or ".join(dict.fromkeys(self.type_text(each) for each in alternatives))
        if schema.get("type") == "array":
            return f"list of {self._items(schema)}"
        if schema.get("type") == "object":
            values = schema.get("additionalProperties")
            inner = self.type_text(values) if isinstance(values, dict) else "any"
            return _title(schema) if "properties" in schema else f"mapping of {inner}"
        name = str(schema.get("type", "constant" if "const" in schema else "any"))
        return f"{name} ({schema['format']})" if "format" in schema else name

    def _items(self, schema: Schema) -> str:
        if "prefixItems" in schema:
            return "exactly " + ", ".join(map(self.type_text, schema["prefixItems"]))
        return self.type_text(schema.get("items", {}))

    def _branches(self, schema: Schema) -> Iterator[Schema]:
        """Yield what a schema consists of, without the fields of objects."""
        if "$ref" in schema:
            yield {key: value for key, value in schema.items() if key != "$ref"}
            definition = self._definitions[schema["$ref"].rpartition("/")[2]]
            if "properties" not in definition:
                yield from self._branches(definition)
        elif alternatives := _alternatives(schema):
            for each in alternatives:
                yield from self._branches(each)
        else:
            yield schema
            if isinstance(schema.get("items"), dict):
                yield from self._branches(schema["items"])


def _title(schema: Schema) -> str:
    return str(schema.get("title", "object"))


def _alternatives(schema: Schema) -> list[Schema]:
    return [each for word in ("anyOf", "oneOf", "allOf") for each in schema.get(word, ())]


def _values(branches: list[Schema]) -> Iterator[str]:
    for each in branches:
        for value in each.get("enum", [each["const"]] if "const" in each else []):
            yield value if isinstance(value, str) else _json(value)


def _limits(branches: list[Schema]) -> Iterator[str]:
    for each in branches:
        for least, most, noun in _COUNTED:
            low, high = each.get(least), each.get(most)
            if low is not None and high is not None:
                yield f"exactly {low:,} {noun}" if low == high else f"{low:,} to {high:,} {noun}"
            elif low is not None:
                yield f"at least {low:,} {noun}"
            elif high is not None:
                yield f"at most {high:,} {noun}"
        for keyword, text in _BOUNDS.items():
            if keyword in each:
                yield text.format(each[keyword])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
