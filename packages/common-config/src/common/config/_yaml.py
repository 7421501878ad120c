"""YAML files as nodes that know their lines.

Built from the parser's events instead of PyYAML's constructors: nothing recurses, nothing is
made from tags, and every key and value has its line. Plain scalars follow the core schema of
YAML 1.2 (section 10.3.2), so that ``no``, ``on``, ``22:30`` and ``0123`` are not turned into
something else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from common.config._node import DEEPEST, Branch, Leaf, Node, Sequence, Source
from common.config._problem import Problem, printable
from common.config._text import read_text

MOST = 100_000  # values of one file
LONGEST = 1_000  # characters of a number; Python refuses to print some longer ones

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it

# The core schema's plain scalars; what matches none of them is text.
_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, base=0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda _: float("nan")),
)


def read_yaml(path: Path, *, may_be_missing: bool) -> tuple[Branch | None, list[Problem]]:
    """Return the file's mapping, if it has one that can be read, and what is wrong with it."""
    text = read_text(path, may_be_missing=may_be_missing)
    if text is None:
        return None, []
    if isinstance(text, Problem):
        return None, [text]
    return parse(text, str(path))


def parse(text: str, name: str) -> tuple[Branch | None, list[Problem]]:
    """Return the mapping that ``text`` is, and what is wrong with it."""
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
            if builder.broken:
                return None, builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return None, [*builder.problems, _syntax(name, text, error, mark.line if mark else None)]
    except yaml.YAMLError:  # the reader's: characters that YAML does not allow
        line = _line_of_control_character(text)
        problem = "contains a control character, which YAML does not allow; remove it"
        return None, [*builder.problems, Problem(problem, source=f"{name}:{line}")]
    return builder.root(), builder.problems


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end was not seen yet."""

    source: Source
    children: dict[str, Node] | None = None
    items: list[Node] = field(default_factory=list[Node])
    key: str | None = None  # whose value comes next
    key_source: Source | None = None


class _Builder:
    def __init__(self, name: str) -> None:
        self.problems: list[Problem] = []
        self.broken = False  # reading on makes no sense
        self._name = name
        self._open: list[_Open] = []
        self._result: Node | None = None
        self._documents = 0
        self._count = 0

    def take(self, event: yaml.Event) -> None:
        source = Source("file", self._name, event.start_mark.line + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop("a second document begins here; keep one document in a file", source)
        elif isinstance(event, yaml.AliasEvent):
            self._stop(
                "anchors and aliases are not supported; write the value out, or put what is "
                "shared into a file of a lower layer",
                source,
            )
        elif isinstance(event, yaml.NodeEvent):
            self._begin(event, source)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def root(self) -> Branch | None:
        """Return the whole; an empty file is an empty mapping."""
        if isinstance(self._result, Branch):
            return self._result
        if self._result is None or (isinstance(self._result, Leaf) and self._result.value is None):
            return Branch({}, Source("file", self._name, 1))
        self._stop("the file must be a mapping of keys to values", self._result.source)
        return None

    def _begin(self, event: yaml.NodeEvent, source: Source) -> None:
        self._count += 1
        if self._open and self._open[-1].key is not None:
            source = self._open[-1].key_source or source  # a value counts as on its key's line
        if self._count > MOST:
            self._stop(f"holds more than {MOST} values, the most allowed", source)
        elif getattr(event, "tag", None) is not None:
            self._stop('tags (words that begin with "!") are not supported; quote the text', source)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, source)
        elif self._wants_key():
            self._stop("a key must be text, not a mapping or a list", source)
        elif len(self._open) >= DEEPEST:
            self._stop(f"is nested deeper than {DEEPEST} levels, the most allowed", source)
        elif isinstance(event, yaml.MappingStartEvent):
            self._open.append(_Open(source, children={}))
        else:
            self._open.append(_Open(source))

    def _end(self) -> None:
        done = self._open.pop()
        if done.children is None:
            self._place(Sequence(tuple(done.items), done.source))
        else:
            self._place(Branch(done.children, done.source))

    def _scalar(self, event: yaml.ScalarEvent, source: Source) -> None:
        text: str = event.value
        is_plain: bool = event.implicit[0]
        if self._wants_key():
            self._key(text, source, is_plain=is_plain)
            return
        try:
            value = _resolve(text) if is_plain else text
        except _LongNumberError:
            message = f"the number has more than {LONGEST} characters, the most allowed"
            self.problems.append(Problem(message, source=str(source)))
            if self._open:
                self._open[-1].key = None  # left out, so that nothing else is said about it
        else:
            self._place(Leaf(value, source))

    def _key(self, text: str, source: Source, *, is_plain: bool) -> None:
        top = self._open[-1]
        top.key, top.key_source = text, source
        if is_plain and text == "<<":
            self._stop("merge keys are not supported; use a file of a lower layer", source)
        elif is_plain and not _is_text(text):
            self.problems.append(
                Problem(
                    f"the key {printable(text)} is not text; put it in quotes", source=str(source)
                )
            )
        elif top.children is not None and text in top.children:
            first = top.children[text].source.line
            self.problems.append(
                Problem(
                    f'the key "{printable(text)}" stands twice in one mapping, also on line '
                    f"{first}; remove one",
                    source=str(source),
                )
            )

    def _place(self, node: Node) -> None:
        if not self._open:
            self._result = node
            return
        top = self._open[-1]
        if top.children is None:
            top.items.append(node)
        elif top.key is not None:
            top.children.setdefault(top.key, node)
            top.key = None

    def _wants_key(self) -> bool:
        return (
            bool(self._open) and self._open[-1].children is not None and self._open[-1].key is None
        )

    def _stop(self, message: str, source: Source) -> None:
        self.problems.append(Problem(message, source=str(source)))
        self.broken = True


class _LongNumberError(Exception):
    pass


def _resolve(text: str) -> object:
    for pattern, convert in _PLAIN:
        if pattern.fullmatch(text):
            if len(text) > LONGEST:
                raise _LongNumberError
            return convert(text)
    return text


def _is_text(plain: str) -> bool:
    try:
        return isinstance(_resolve(plain), str)
    except _LongNumberError:
        return False


def _syntax(name: str, text: str, error: yaml.MarkedYAMLError, line: int | None) -> Problem:
    lines = text.splitlines()
    source = name if line is None else f"{name}:{line + 1}"
    if line is not None and line < len(lines) and re.match(r" *\t", lines[line]):
        return Problem("is indented with a tab; YAML wants spaces", source=source)
    # Words in quotes may be pieces of a value.
    reason = re.sub(r"'[^']{2,}'", "'…'", error.problem or "unknown reason")
    return Problem(f"is not valid YAML: {reason}", source=source)


def _line_of_control_character(text: str) -> int:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    return text.count("\n", 0, found.start()) + 1 if found else 1
