"""Queries: a closed set of frozen, hashable nodes, and `F`, which builds them.

Nodes follow SQL's three-valued logic: comparing with null is *unknown*, not of unknown is
unknown, and only rows for which the whole is *true* are returned.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NoReturn, TypeAlias

from common.db.core._names import shown
from common.errors import ValidationError

MAX_DEPTH: Final = 32
MAX_NODES: Final = 1_000
MAX_IN_VALUES: Final = 10_000
MAX_ORDER_FIELDS: Final = 8

Nulls: TypeAlias = Literal["first", "last"]


# Not dataclasses: making these would take a third of this package's import time.


class Predicate:
    """A condition on a row, immutable and hashable; combine with ``&``, ``|`` and ``~``."""

    __slots__ = ("depth", "size")
    __match_args__: ClassVar[tuple[str, ...]] = ()

    # Known from the start, so that no later walk can go too deep.
    depth: int
    size: int

    def _init(self, *values: object, extent: tuple[int, int] = (1, 1)) -> None:
        for name, value in zip(self.__match_args__, values, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "depth", extent[0])
        object.__setattr__(self, "size", extent[1])

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])

    def __and__(self, other: "Predicate") -> "Predicate":
        return And((*_parts(self, And), *_parts(other, And)))

    def __or__(self, other: "Predicate") -> "Predicate":
        return Or((*_parts(self, Or), *_parts(other, Or)))

    def __invert__(self) -> "Predicate":
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError("a condition is neither true nor false by itself: combine with & | ~")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, Predicate):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} never changes: make another one")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self._values()


class Comparison(Predicate):
    """A field against a value."""

    __slots__ = ("field", "value")
    __match_args__ = ("field", "value")

    field: str
    value: Any

    def __init__(self, field: str, value: object) -> None:
        self._init(field, value)


class Eq(Comparison):
    """``field = value``."""

    __slots__ = ()


class Ne(Comparison):
    """``field <> value``; unknown, and so not returned, where the field is null."""

    __slots__ = ()


class Lt(Comparison):
    """``field < value``."""

    __slots__ = ()


class Le(Comparison):
    """``field <= value``."""

    __slots__ = ()


class Gt(Comparison):
    """``field > value``."""

    __slots__ = ()


class Ge(Comparison):
    """``field >= value``."""

    __slots__ = ()


class In(Predicate):
    """The field equals one of ``values``; without values it is false for every row."""

    __slots__ = ("field", "values")
    __match_args__ = ("field", "values")

    field: str
    values: tuple[Any, ...]

    def __init__(self, field: str, values: tuple[Any, ...]) -> None:
        self._init(field, tuple(values))


class IsNull(Predicate):
    """The field is null; never unknown."""

    __slots__ = ("field",)
    __match_args__ = ("field",)

    field: str

    def __init__(self, field: str) -> None:
        self._init(field)


class Match(Predicate):
    """A text within the field's text."""

    __slots__ = ("field", "text")
    __match_args__ = ("field", "text")

    field: str
    text: str

    def __init__(self, field: str, text: str) -> None:
        self._init(field, text)


class Contains(Match):
    """The field's text contains ``text``, taken literally and with its case."""

    __slots__ = ()


class StartsWith(Match):
    """The field's text starts with ``text``, taken literally and with its case."""

    __slots__ = ()


class EndsWith(Match):
    """The field's text ends with ``text``, taken literally and with its case."""

    __slots__ = ()


class Junction(Predicate):
    """Several conditions in one."""

    __slots__ = ("parts",)
    __match_args__ = ("parts",)

    parts: tuple[Predicate, ...]

    def __init__(self, parts: tuple[Predicate, ...]) -> None:
        if not parts:
            raise ValidationError(f"{type(self).__name__}() needs at least one condition")
        self._init(tuple(parts), extent=_bounded(parts))


class And(Junction):
    """All ``parts`` are true."""

    __slots__ = ()


class Or(Junction):
    """One of ``parts`` is true."""

    __slots__ = ()


class Not(Predicate):
    """``part`` is false; unknown where it is unknown."""

    __slots__ = ("part",)
    __match_args__ = ("part",)

    part: Predicate

    def __init__(self, part: Predicate) -> None:
        self._init(part, extent=_bounded((part,)))


def _parts(node: object, kind: type[Junction]) -> tuple[Predicate, ...]:
    if not isinstance(node, Predicate):
        raise ValidationError(f"{shown(node)} is no condition: write F.field == value")
    return node.parts if isinstance(node, kind) else (node,)


def _extent(parts: Iterable[Predicate]) -> tuple[int, int]:
    """Return depth and size of a node with these parts."""
    depth = size = 1
    for part in parts:
        if not isinstance(part, Predicate):
            raise ValidationError(f"{shown(part)} is no condition: write F.field == value")
        depth, size = max(depth, part.depth + 1), size + part.size
    return depth, size


def _bounded(parts: Iterable[Predicate]) -> tuple[int, int]:
    depth, size = _extent(parts)
    if depth > MAX_DEPTH:
        raise ValidationError(f"a query may be nested at most {MAX_DEPTH} deep")
    if size > MAX_NODES:
        raise ValidationError(f"a query may have at most {MAX_NODES} conditions")
    return depth, size


def both(*parts: Predicate | None) -> Predicate | None:
    """Return the conjunction of the parts that are not ``None``.

    Without bounds: what the library adds to a query (scope, position) takes nothing from it.
    """
    given = tuple(part for part in parts if part is not None)
    if len(given) <= 1:
        return given[0] if given else None
    whole = And.__new__(And)
    whole._init(given, extent=_extent(given))  # noqa: SLF001 - as And does, bounds apart
    return whole


@dataclass(frozen=True)
class Order:
    """One key of a sort order; where nulls go is always said.

    Args:
        field: Name of the field.
        descending: Largest first.
        nulls: Whether rows without a value come first or last, in either direction.
    """

    field: str
    descending: bool = False
    nulls: Nulls = "last"


class Field:
    """A field's name, from which conditions and sort keys are built; see `F`."""

    __slots__ = ("_name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: object) -> Predicate:  # type: ignore[override]
        return IsNull(self._name) if value is None else Eq(self._name, value)

    def __ne__(self, value: object) -> Predicate:  # type: ignore[override]
        return Not(IsNull(self._name)) if value is None else Ne(self._name, value)

    def __lt__(self, value: object) -> Predicate:
        return Lt(self._name, value)

    def __le__(self, value: object) -> Predicate:
        return Le(self._name, value)

    def __gt__(self, value: object) -> Predicate:
        return Gt(self._name, value)

    def __ge__(self, value: object) -> Predicate:
        return Ge(self._name, value)

    def in_(self, values: Iterable[object]) -> Predicate:
        """Equal to one of ``values``; with none, false for every row.

        Raises:
            ValidationError: More than 10,000 values, or text where a list is meant.
        """
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise ValidationError(f"{self._name}: in_() takes several values: put it into a list")
        taken: list[object] = []
        for value in values:
            taken.append(value)
            if len(taken) > MAX_IN_VALUES:
                raise ValidationError(f"{self._name}: in_() takes at most {MAX_IN_VALUES} values")
        return In(self._name, tuple(taken))

    def not_in(self, values: Iterable[object]) -> Predicate:
        """Equal to none of ``values``; unknown where the field is null, unless there are none."""
        return Not(self.in_(values))

    def between(self, low: object, high: object) -> Predicate:
        """From ``low`` to ``high``, both included."""
        return And((Ge(self._name, low), Le(self._name, high)))

    def is_null(self) -> Predicate:
        """Without a value; ``== None`` means the same."""
        return IsNull(self._name)

    def not_null(self) -> Predicate:
        """With a value; ``!= None`` means the same."""
        return Not(IsNull(self._name))

    def contains(self, text: str) -> Predicate:
        """Text that contains ``text``: no wildcards, with its case."""
        return Contains(self._name, text)

    def starts_with(self, text: str) -> Predicate:
        """Text that starts with ``text``: no wildcards, with its case."""
        return StartsWith(self._name, text)

    def ends_with(self, text: str) -> Predicate:
        """Text that ends with ``text``: no wildcards, with its case."""
        return EndsWith(self._name, text)

    def asc(self, *, nulls: Nulls = "last") -> Order:
        """Sort by this field, smallest first."""
        return Order(self._name, descending=False, nulls=nulls)

    def desc(self, *, nulls: Nulls = "last") -> Order:
        """Sort by this field, largest first."""
        return Order(self._name, descending=True, nulls=nulls)

    def __repr__(self) -> str:
        return f"F[{self._name!r}]"


class _Fields:
    """Makes a `Field` of any name: ``F.status``, or ``F["status"]`` for a name of any shape."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):
            raise AttributeError(name)
        return Field(name)

    def __getitem__(self, name: str) -> Field:
        if not isinstance(name, str):
            raise ValidationError(f"{shown(name)} is no name of a field")
        return Field(name)


F: Final = _Fields()
"""Builds conditions: ``(F.status == "open") & F.tag.in_(["a", "b"])``."""


@dataclass(frozen=True)
class Query:
    """Which rows, and in which order.

    Args:
        where: The condition; none means all rows.
        order_by: Sort keys, at most 8; a bare ``F.name`` sorts ascending. The primary key is
            added at the end, so that the order is always total.

    Example:
        >>> query = Query(
        ...     where=(F.status == "open") & F.tag.in_(["a", "b"]),
        ...     order_by=(F.created_at.desc(nulls="last"),),
        ... )
        >>> query.order_by
        (Order(field='created_at', descending=True, nulls='last'),)
    """

    where: Predicate | None = None
    order_by: tuple[Order, ...] = ()

    def __init__(
        self,
        where: Predicate | None = None,
        order_by: Iterable[Order | Field] | Order | Field = (),
    ) -> None:
        if where is not None and not isinstance(where, Predicate):
            raise ValidationError(f"{shown(where)} is no condition: write F.field == value")
        keys = tuple(order_by) if isinstance(order_by, Iterable) else (order_by,)
        orders = tuple(key.asc() if isinstance(key, Field) else key for key in keys)
        for order in orders:
            if not isinstance(order, Order):
                raise ValidationError(f"{shown(order)} is no sort key: write F.field.asc()")
        if len(orders) > MAX_ORDER_FIELDS:
            raise ValidationError(f"a query may sort by at most {MAX_ORDER_FIELDS} fields")
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "order_by", orders)


Condition: TypeAlias = Query | Predicate | None
"""What the methods of a repository take; ``None`` means all rows."""
