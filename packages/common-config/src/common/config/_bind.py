"""From variables, whose values are text, to values at the fields they are meant for."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import NoReturn

from common.config._node import Branch, Leaf, Node, Source, at, from_python, merge_branches
from common.config._problem import Path, Problem, dotted, printable
from common.config._shape import Shape
from common.config._variables import Names


@dataclass(frozen=True, slots=True)
class Entry:
    """One variable and its text. The repr leaves the text out: it may be a secret."""

    name: str
    text: str = field(repr=False)
    source: Source


def bind(entries: Iterable[Entry], names: Names) -> tuple[Branch | None, list[Problem]]:
    """Return the values of one layer, and what is wrong with it.

    Args:
        entries: The variables; those without a prefix of ``names`` are passed over.
        names: What the settings class understands.
    """
    problems: list[Problem] = []
    found: dict[Path, tuple[Entry, Node]] = {}
    for entry in entries:
        where = names.find(entry.name)
        if entry.source.kind == "environment" and names.is_link(entry.name, entry.text):
            continue
        if where is None:
            if names.is_watched(entry.name):
                message = f"unknown variable {printable(entry.name)}{names.suggest(entry.name)}"
                problems.append(Problem(message, source=_place(entry)))
            continue
        path, shape = where
        if path in found:
            other = found[path][0].source
            problems.append(
                Problem(f"is also set by {other}; keep one", dotted(path), str(entry.source))
            )
            continue
        value = _value(entry, shape)
        if isinstance(value, str):
            problems.append(Problem(value, dotted(path), str(entry.source)))
        else:
            found[path] = entry, value
    # What is set for a whole section yields to what is set for its fields.
    ordered = sorted(found.items(), key=lambda item: len(item[0]))
    branches = [at(path, node) for path, (_, node) in ordered]
    layer = reduce(merge_branches, branches) if branches else None
    return layer, problems


def _place(entry: Entry) -> str:
    return "" if entry.source.kind == "environment" else str(entry.source)


def _value(entry: Entry, shape: Shape) -> Node | str:
    """Return the value, or what is wrong with it."""
    text, source = entry.text, entry.source
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "is not UTF-8 text"  # bytes of the environment that Python could not decode
    if text == "" and shape.may_be_none and not shape.is_text:
        return Leaf(None, source)
    takes_json = bool(shape.models or shape.values is not None or shape.items is not None)
    if not takes_json or (shape.is_scalar and not text.lstrip().startswith(("{", "["))):
        return Leaf(text, source)
    return _from_json(text, source, "list" if shape.items is not None else "object")


def _from_json(text: str, source: Source, wanted: str) -> Node | str:
    example = '["a", "b"]' if wanted == "list" else '{"key": "value"}'
    try:
        return from_python(
            json.loads(text, object_pairs_hook=_once, parse_constant=_refuse), source
        )
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        return f"is not JSON ({position}); this field takes a JSON {wanted}, such as {example}"
    except _RepeatedKeyError:
        return "has the same key twice in one JSON object; remove one"
    except TypeError as error:
        return str(error)
    except (ValueError, RecursionError):
        return "is not JSON that can be used: a number is out of range, or it is nested too deep"


class _RepeatedKeyError(Exception):
    pass


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _RepeatedKeyError
    return result


def _refuse(_: str) -> NoReturn:
    raise ValueError
