"""What changed between two JSON Schemas, and for whom.

A schema is taken for the set of data it accepts. Where the new set lacks something of the old
one, new code fails on old messages: *backward*. Where it has something more, old code fails on
new messages: *forward*. Two things are judged by what the team means rather than by sets: a
field that is added as optional is fine, because readers ignore what they do not know; one that
is removed is not, even if it was optional, because its readers would silently get nothing.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Literal

from common.domain._schema import Schema

Direction = Literal["backward", "forward"]
Difference = tuple[str, str, Direction]
"""Path, problem, direction."""

# Keyword, and whether a larger number makes the schema narrower.
_LIMITS = (
    ("minLength", True),
    ("maxLength", False),
    ("minItems", True),
    ("maxItems", False),
    ("minProperties", True),
    ("maxProperties", False),
)
_BOUNDS = (
    # Inclusive and exclusive keyword, their signs in text, 1 for a lower and -1 for an upper bound.
    ("minimum", "exclusiveMinimum", ">=", ">", 1),
    ("maximum", "exclusiveMaximum", "<=", "<", -1),
)
_ANY = "any"
_BOTH: tuple[Direction, Direction] = ("backward", "forward")


def differences(old: Schema, new: Schema) -> Iterator[Difference]:
    """Yield the incompatible changes from one schema to another, both by `stable_schema`."""
    return _Comparison(old.get("$defs", {}), new.get("$defs", {})).schemas(old, new, "$")


class _Comparison:
    def __init__(self, old_defs: dict[str, Schema], new_defs: dict[str, Schema]) -> None:
        self.old_defs = old_defs
        self.new_defs = new_defs
        # By identity: a definition that contains itself is met again as the same object.
        self.compared: set[tuple[int, int]] = set()

    def schemas(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        old_all, new_all = list(_branches(old, self.old_defs)), list(_branches(new, self.new_defs))
        if _is_sensitive(old, old_all) and not _is_sensitive(new, new_all):
            for direction in _BOTH:  # whoever is updated first, it would show in logs
                yield path, "is not marked Sensitive any more", direction
        # Alternatives told apart by a constant field are compared with their namesakes.
        named = max(sum(tag == "object" for tag, _ in each) for each in (old_all, new_all)) > 1
        olds, news = _grouped(old_all, named=named), _grouped(new_all, named=named)
        old_only = [tag for tag in olds if tag not in news]
        new_only = [tag for tag in news if tag not in olds]
        lost = [] if _ANY in news else [tag for tag in old_only if not _is_number(tag, news)]
        gained = [] if _ANY in olds else [tag for tag in new_only if not _is_number(tag, olds)]
        if len(olds) == len(news) == 1 and (lost or gained):
            problem = f"type changed from {old_only[0]} to {new_only[0]}"
            for direction in _where(lost, gained):
                yield path, problem, direction
            return
        for tag in lost:
            yield path, f"{tag} is not accepted any more", "backward"
        for tag in gained:
            yield path, f"{tag} is accepted in addition", "forward"
        for tag, group in olds.items():
            if tag in news:
                yield from self.groups(group, news[tag], tag, path)

    def groups(
        self, olds: list[Schema], news: list[Schema], tag: str, path: str
    ) -> Iterator[Difference]:
        if len(olds) == len(news) == 1:
            yield from self.branches(olds[0], news[0], path)
            return
        # Several alternatives of one type: each needs a counterpart that takes all of it.
        for one in olds:
            if not any(self.fits(one, other, "backward", path) for other in news):
                yield path, f"an alternative of type {tag} was changed or removed", "backward"
        for other in news:
            if not any(self.fits(one, other, "forward", path) for one in olds):
                yield path, f"an alternative of type {tag} was changed or added", "forward"

    def fits(self, old: Schema, new: Schema, direction: Direction, path: str) -> bool:
        trial = _Comparison(self.old_defs, self.new_defs)
        trial.compared = set(self.compared)
        return all(each[2] != direction for each in trial.branches(old, new, path))

    def branches(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        """Compare two schemas of one type, without alternatives."""
        pair = (id(old), id(new))
        if pair in self.compared:
            return
        self.compared.add(pair)
        yield from _values(old, new, path)
        yield from _limits(old, new, path)
        yield from _forms(old, new, path)
        yield from self.properties(old, new, path)
        if "items" in old or "items" in new:
            yield from self.schemas(old.get("items", {}), new.get("items", {}), path + "[]")
        yield from self.prefix_items(old, new, path)

    def properties(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        olds, news = old.get("properties", {}), new.get("properties", {})
        old_required, new_required = old.get("required", []), new.get("required", [])
        refuses = old.get("additionalProperties") is False
        for name, schema in olds.items():
            at = f"{path}.{name}"
            if name not in news:
                yield at, "field removed", "forward"
                if new.get("additionalProperties") is False:
                    yield at, "field removed, and unknown fields are refused", "backward"
                continue
            yield from self.schemas(schema, news[name], at)
            if name in new_required and name not in old_required:
                yield at, "field became required", "backward"
            elif name in old_required and name not in new_required:
                yield at, "field became optional", "forward"
        for name in news:
            if name in olds:
                continue
            if name in new_required:
                yield f"{path}.{name}", "required field added", "backward"
            if refuses:
                yield f"{path}.{name}", "field added, but readers refuse unknown ones", "forward"
        yield from self.additional(old, new, path)

    def additional(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        yield from self.keys(old, new, path)
        one, other = _additional(old), _additional(new)
        if one is not False and other is False:
            yield path, "unknown fields are refused now", "backward"
        elif one is False and other is not False:
            yield path, "unknown fields are kept or ignored now", "forward"
        elif isinstance(one, dict) or isinstance(other, dict):
            one = one if isinstance(one, dict) else {}
            other = other if isinstance(other, dict) else {}
            yield from self.schemas(one, other, path + "{}")

    def keys(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        one, other = (" or ".join(each.get("patternProperties", {})) for each in (old, new))
        if one != other:
            problem = f"pattern of the keys changed from {one or 'none'} to {other or 'none'}"
            for direction in _where([other] if other else [], [one] if one else []):
                yield path, problem, direction
        if "propertyNames" in old or "propertyNames" in new:
            keys, new_keys = ({"type": "string", **s.get("propertyNames", {})} for s in (old, new))
            yield from _Comparison(self.old_defs, self.new_defs).schemas(
                keys, new_keys, f"{path}{{key}}"
            )

    def prefix_items(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        olds, news = old.get("prefixItems", []), new.get("prefixItems", [])
        for index, (one, other) in enumerate(zip(olds, news, strict=False)):
            yield from self.schemas(one, other, f"{path}[{index}]")
        # A change of length shows in minItems and maxItems, which pydantic always gives.


def _additional(schema: Schema) -> Any:
    """Return the schema of a mapping's values; pydantic gives at most one pattern."""
    for values in schema.get("patternProperties", {}).values():
        return values
    return schema.get("additionalProperties", True)


def _is_sensitive(schema: Schema, branches: list[tuple[str, Schema]]) -> bool:
    return "x-sensitive" in schema or any("x-sensitive" in branch for _, branch in branches)


def _branches(schema: Schema, defs: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """Yield the alternatives of a schema, each with the type of data it takes."""
    if "$ref" in schema:
        yield from _branches(defs[schema["$ref"].rpartition("/")[2]], defs)
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _branches(each, defs)
    elif "type" in schema:
        yield schema["type"], schema
    else:
        for tag in sorted({_json_type(value) for value in schema.get("enum", [])}) or [_ANY]:
            yield tag, schema


def _grouped(branches: list[tuple[str, Schema]], *, named: bool) -> dict[str, list[Schema]]:
    groups: dict[str, list[Schema]] = {}
    for kind, schema in branches:
        tag = kind
        if named and kind == "object":
            constants = [
                f"{name}={inner['enum'][0]}"
                for name, inner in schema.get("properties", {}).items()
                if len(inner.get("enum", [])) == 1
            ]
            tag = " ".join([kind, *constants])
        groups.setdefault(tag, []).append(schema)
    return groups


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return _ANY


def _is_number(tag: str, others: dict[str, list[Schema]]) -> bool:
    """Whether a type is covered by a wider one: every integer is a number."""
    return tag == "integer" and "number" in others


def _where(lost: list[str], gained: list[str]) -> Iterator[Direction]:
    if lost:
        yield "backward"
    if gained:
        yield "forward"


def _values(old: Schema, new: Schema, path: str) -> Iterator[Difference]:
    if "enum" not in old and "enum" not in new:
        return
    if "enum" not in new:
        yield path, "is not limited to listed values any more", "forward"
    elif "enum" not in old:
        yield path, "is limited to listed values now", "backward"
    else:
        olds = {json.dumps(value): value for value in old["enum"]}
        news = {json.dumps(value): value for value in new["enum"]}
        for text, value in olds.items():
            if text not in news:
                yield path, f"enum value {value!r} removed", "backward"
        for text, value in news.items():
            if text not in olds:
                yield path, f"enum value {value!r} added", "forward"


def _limits(old: Schema, new: Schema, path: str) -> Iterator[Difference]:
    for keyword, larger_is_narrower in _LIMITS:
        one, other = old.get(keyword), new.get(keyword)
        if one == other:
            continue
        if one is None or other is None:
            narrower = one is None
        else:
            narrower = (other > one) is larger_is_narrower
        problem = f"{keyword} changed from {_limit(one)} to {_limit(other)}"
        yield path, problem, "backward" if narrower else "forward"
    for names in _BOUNDS:
        (one, was), (other, now) = _bound(old, names), _bound(new, names)
        if one != other:
            direction: Direction = "backward" if other > one else "forward"
            yield path, f"limit changed from {was} to {now}", direction


def _bound(schema: Schema, names: tuple[str, str, str, str, int]) -> tuple[tuple[float, bool], str]:
    """Return one bound as something larger the narrower it is, and as text."""
    closed, open_, closed_sign, open_sign, side = names
    found: list[tuple[tuple[float, bool], str]] = [((-math.inf, False), "none")]
    if closed in schema:
        found.append(((schema[closed] * side, False), f"{closed_sign} {schema[closed]}"))
    if open_ in schema:
        value = schema[open_]
        if schema.get("type") == "integer":  # > 0 says the same as >= 1
            found.append(((value * side + 1, False), f"{closed_sign} {value + side}"))
        else:
            found.append(((value * side, True), f"{open_sign} {value}"))
    return max(found)


def _limit(value: object) -> str:
    return "none" if value is None else str(value)


def _forms(old: Schema, new: Schema, path: str) -> Iterator[Difference]:
    for keyword in ("pattern", "format", "multipleOf", "uniqueItems"):
        one, other = old.get(keyword), new.get(keyword)
        if one == other:
            continue
        problem = f"{keyword} changed from {_limit(one)} to {_limit(other)}"
        if other is not None:
            yield path, problem, "backward"
        if one is not None:
            yield path, problem, "forward"
