"""Values together with where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from common.config._problem import Path

DEEPEST = 64  # levels of mappings and lists

Kind: TypeAlias = Literal["default", "file", "env-file", "environment", "secret-file", "argument"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from. ``str()`` gives ``base.yaml:3``, ``ORDERS_DB__HOST`` and the like.

    Attributes:
        kind: ``"default"``, ``"file"``, ``"env-file"``, ``"environment"``, ``"secret-file"`` or
            ``"argument"`` (of `load`, or of the settings class itself).
        name: The path of the file as it was given, or the variable; empty for defaults and
            arguments.
        line: Line of the file, from 1, where files have lines.
    """

    kind: Kind
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if not self.name:
            return self.kind
        return self.name if self.line is None else f"{self.name}:{self.line}"


DEFAULT = Source("default")
ARGUMENT = Source("argument")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value that is replaced as a whole. Its repr has no value: it may be a secret."""

    value: object = field(repr=False)
    source: Source
    overridden: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list, likewise; its items only serve to name their lines."""

    items: "tuple[Node, ...]"
    source: Source
    overridden: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """A mapping; merged key by key."""

    children: "Mapping[str, Node]"
    source: Source
    overridden: tuple[Source, ...] = ()


Node: TypeAlias = Leaf | Sequence | Branch


def merge_branches(lower: Branch, higher: Branch) -> Branch:
    """Return what `common.config.deep_merge` would, with every value's sources."""
    children = dict(lower.children)
    for key, each in higher.children.items():
        children[key] = merge(children[key], each) if key in children else each
    overridden = (*higher.overridden, lower.source, *lower.overridden)
    return Branch(children, higher.source, overridden)


def merge(lower: Node, higher: Node) -> Node:
    """Return ``higher``, merged into ``lower`` where both are mappings."""
    if isinstance(lower, Branch) and isinstance(higher, Branch):
        return merge_branches(lower, higher)
    overridden = (*higher.overridden, lower.source, *lower.overridden)
    if isinstance(higher, Leaf):
        return Leaf(higher.value, higher.source, overridden)
    if isinstance(higher, Sequence):
        return Sequence(higher.items, higher.source, overridden)
    return Branch(higher.children, higher.source, overridden)


def plain(node: Node) -> object:
    """Return the value alone."""
    if isinstance(node, Branch):
        return {key: plain(child) for key, child in node.children.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.value


def without_values(branch: Branch) -> Branch:
    """Return the same tree of sources."""
    below = {key: _without_values(each) for key, each in branch.children.items()}
    return Branch(below, branch.source, branch.overridden)


def _without_values(node: Node) -> Node:
    if isinstance(node, Branch):
        return without_values(node)
    if isinstance(node, Sequence):
        items = tuple(_without_values(item) for item in node.items)
        return Sequence(items, node.source, node.overridden)
    return Leaf(None, node.source, node.overridden)


def from_python(value: object, source: Source, depth: int = 0) -> Node:
    """Return a node for mappings and lists as JSON or Python code has them.

    Raises:
        TypeError: If a key of a mapping is no text, or mappings are nested too deep.
    """
    if depth > DEEPEST:
        raise TypeError(f"is nested deeper than {DEEPEST} levels, the most allowed")
    if isinstance(value, Mapping):
        children: dict[str, Node] = {}
        for key, child in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise TypeError(f"keys are text, but one here is {type(key).__name__}")
            children[key] = from_python(child, source, depth + 1)
        return Branch(children, source)
    if isinstance(value, list | tuple):
        items = cast("list[object]", value)
        return Sequence(tuple(from_python(item, source, depth + 1) for item in items), source)
    return Leaf(value, source)


def at(path: Path, value: Node) -> Branch:
    """Return ``value`` as the only one of a tree, at ``path``."""
    first, *rest = path
    return Branch({str(first): at(tuple(rest), value) if rest else value}, value.source)


def child(node: Node, part: str | int) -> Node | None:
    """Return the node one step below, if there is one."""
    if isinstance(node, Branch):
        return node.children.get(part) if isinstance(part, str) else None
    if isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part]
    return None
