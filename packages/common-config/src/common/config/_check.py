"""What is wrong with merged values, told without the values."""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from common.config._mask import is_below_secret, is_list, looks_secret
from common.config._node import DEFAULT, Branch, Leaf, Node, Sequence, child
from common.config._problem import RULE, Path, Problem, did_you_mean, dotted
from common.config._shape import Shape, shape_of, shapes_below
from common.config._variables import Names

# pydantic's own messages, which hold no value (see `_message` for tags); all others may.
_SAFE = frozenset(get_args(ErrorType)) - {
    "assertion_error",
    "get_attribute_error",
    "iteration_error",
    "mapping_type",
    "uuid_parsing",
    "value_error",
}
_PIECE = 4  # characters of a secret that a message may not repeat
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # of a URL; no secret


def prune(branch: Branch, shape: Shape, problems: list[Problem], path: Path = ()) -> Branch:
    """Return ``branch`` without unknown keys, each of which becomes a problem."""
    if shape.is_open or bool(shape.models) == (shape.values is not None):
        return branch  # anything goes, or it is for pydantic to say what this should be
    fields = shapes_below(shape)
    takes_more = any(model.model_config.get("extra") == "allow" for model in shape.models)
    children: dict[str, Node] = {}
    for key, each in branch.children.items():
        below = shape_of(shape.values) if shape.values is not None else fields.get(key)
        if below is not None:
            children[key] = _pruned(each, below, problems, (*path, key))
        elif takes_more:
            children[key] = each
        else:
            sources = dict.fromkeys(str(s) for s in (each.source, *each.overridden))
            message = f"unknown key{did_you_mean(key, list(fields))}"
            problems.append(Problem(message, dotted((*path, key)), ", ".join(sources)))
    return Branch(children, branch.source, branch.overridden)


def _pruned(node: Node, shape: Shape, problems: list[Problem], path: Path) -> Node:
    if isinstance(node, Branch):
        return prune(node, shape, problems, path)
    if isinstance(node, Sequence) and shape.items is not None:
        items = shape_of(shape.items)
        kept = [_pruned(each, items, problems, (*path, i)) for i, each in enumerate(node.items)]
        return Sequence(tuple(kept), node.source, node.overridden)
    return node


def secrets_of(node: Node, shape: Shape, *, is_named: bool = False) -> Iterator[str]:
    """Yield the texts in ``node`` that no message may repeat.

    Args:
        node: Values.
        shape: What they should be.
        is_named: Whether the field, or one above it, has a name that looks secret.
    """
    if isinstance(node, Sequence):
        items = shape_of(shape.items) if shape.items is not None else shape
        for each in node.items:
            yield from secrets_of(each, items, is_named=is_named)
    elif isinstance(node, Branch):
        fields = shapes_below(shape)
        others = shape_of(shape.values) if shape.values is not None else Shape()
        others.is_secret |= shape.is_secret
        for key, each in node.children.items():
            below = fields.get(key, others)
            yield from secrets_of(each, below, is_named=is_named or looks_secret(key))
    else:
        yield from _secrets_in(node.value, is_named=is_named, is_secret=shape.is_secret)


def _secrets_in(value: object, *, is_named: bool, is_secret: bool) -> Iterator[str]:
    if callable(reveal := getattr(value, "get_secret_value", None)):
        revealed: object = reveal()
        yield from _secrets_in(revealed, is_named=is_named, is_secret=True)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, str | int | float):
        text = str(value)
        if is_secret or (is_named and isinstance(value, str)):
            yield text
        elif "://" in text and "@" in text:
            yield text.partition("://")[2].rpartition("@")[0]
    else:
        for key, inner in _inside(value):
            named = is_named or looks_secret(key)
            yield from _secrets_in(inner, is_named=named, is_secret=is_secret)


def _inside(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield field, getattr(value, field)
    elif isinstance(value, Mapping):
        for key, each in cast("Mapping[object, object]", value).items():
            yield str(key), each
    elif is_list(value):
        for each in value:
            yield "", each


class Translator:
    """Turns pydantic's errors into problems.

    Args:
        root: The values that were validated.
        shape: What they should be.
        names: To name the variable that would set a missing field.
        secrets: What no message may repeat.
    """

    def __init__(self, root: Node, shape: Shape, names: Names, secrets: Iterable[str]) -> None:
        self._root = root
        self._shape = shape
        self._names = names
        self._pieces = {piece for secret in secrets for piece in _pieces(secret.casefold())}

    def problems(self, error: ValidationError) -> Iterator[tuple[Problem, bool]]:
        """Yield the problems, and of each whether a value is merely missing."""
        grouped: dict[tuple[str, str], dict[str, None]] = {}
        missing: set[tuple[str, str]] = set()
        for each in error.errors(include_url=False, include_input=False):
            path, node, shape = self._locate(each["loc"])
            is_missing = each["type"] in {"missing", "union_tag_not_found"} and node is None
            source = "" if is_missing or not path else _sources(node)
            key = dotted(path), source
            if is_missing:
                missing.add(key)
                grouped.setdefault(key, {})[self._missing(path)] = None
            else:
                grouped.setdefault(key, {})[self._message(each, node, shape, path)] = None
        for (path_text, source), messages in grouped.items():
            text = "; or ".join(messages)
            yield Problem(text, path_text, source), (path_text, source) in missing

    def crash(self, error: Exception) -> Problem:
        """Return the problem for an exception that a validator should not have raised."""
        where = _where(error.__traceback__)
        return Problem(f"a validator failed with {type(error).__name__}{where}; mend it")

    def _locate(self, location: tuple[int | str, ...]) -> tuple[Path, Node | None, Shape]:
        """Find the field; pydantic mixes names of union members into its locations."""
        path: Path = ()
        node: Node | None = self._root
        shape = self._shape
        for part in location:
            below = child(node, part) if node is not None else None
            if (own := shapes_below(shape).get(str(part))) is not None:
                shape = own
            elif below is not None:
                inner = shape.values if shape.values is not None else shape.items
                shape = shape_of(inner) if inner is not None else Shape(is_secret=shape.is_secret)
            else:
                continue
            path, node = (*path, part), below
        return path, node, shape

    def _missing(self, path: Path) -> str:
        variable = self._names.name_of(path)
        how = f"set {variable}, or give the key in a file" if variable else "give the key"
        return f"is required; {how}"

    def _message(self, error: ErrorDetails, node: Node | None, shape: Shape, path: Path) -> str:
        kind, message = error["type"], error["msg"]
        if kind == "union_tag_invalid":  # its own message has the value
            message = f"Input tag should be one of {(error.get('ctx') or {}).get('expected_tags')}"
        value = node.value if isinstance(node, Leaf) else node
        if node is not None and value is None:
            return "is empty (null); give a value, or remove the key"
        if kind == "extra_forbidden":
            return "unknown key"
        if kind == "string_type" and isinstance(value, bool | int | float):
            return f"{message}; put the value in quotes"
        if kind in _SAFE or kind == RULE:
            return message
        cause = (error.get("ctx") or {}).get("error")
        text = str(cause) if isinstance(cause, Exception) else message
        if shape.is_secret or is_below_secret(path) or self._repeats(text):
            where = _where(cause.__traceback__) if isinstance(cause, Exception) else ""
            return (
                f"is refused by a validator{where}; its message is left out, since it may "
                "repeat a secret"
            )
        return text

    def _repeats(self, text: str) -> bool:
        text = text.casefold()
        return any(piece in text for piece in self._pieces)


def _sources(node: Node | None) -> str:
    if node is None:
        return str(DEFAULT)
    # Several layers may have made what is wrong with a section as a whole.
    sources = (node.source, *node.overridden) if isinstance(node, Branch) else (node.source,)
    return ", ".join(dict.fromkeys(map(str, sources)))


def _pieces(secret: str) -> Iterator[str]:
    if scheme := _SCHEME.match(secret):
        secret = secret[scheme.end() :]
    if secret and len(secret) <= _PIECE:
        yield secret
    for start in range(len(secret) - _PIECE + 1):
        yield secret[start : start + _PIECE]


def _where(traceback: TracebackType | None) -> str:
    """Return the function and line that raised: where to look, without what was said."""
    if traceback is None:
        return ""
    while traceback.tb_next:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f" ({code.co_qualname}, {code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno})"
