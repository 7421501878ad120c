"""What a repository hands to a backend: scope, selection, and where a page starts."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from common.db.core._entity import EntityInfo
from common.db.core._query import And, Eq, Gt, In, IsNull, Lt, Not, Or, Order, Predicate, both


@dataclass(frozen=True)
class Scope:
    """Which rows a repository may see and touch at all.

    Args:
        tenant: Field and value of the tenant it is bound to; empty for entities without one and
            for all tenants.
        deleted: Name of the field that marks a row as deleted; marked rows do not exist.
    """

    tenant: tuple[tuple[str, Any], ...] = ()
    deleted: str | None = None

    @cached_property
    def predicate(self) -> Predicate | None:
        """The scope as a condition, or ``None`` when it includes every row."""
        parts: list[Predicate] = [Eq(name, value) for name, value in self.tenant]
        if self.deleted is not None:
            parts.append(IsNull(self.deleted))
        return both(*parts)

    def where(self, info: EntityInfo[Any], key: tuple[Any, ...]) -> Predicate:
        """Return the condition for the row with this primary key, within the scope."""
        found = both(*map(Eq, info.key, key), self.predicate)
        assert found is not None  # noqa: S101 - a key has at least one field
        return found


@dataclass(frozen=True)
class Seek:
    """A position in a sort order; only rows after it are wanted.

    Args:
        order: The total order.
        keys: The position: a stored value for each key of ``order``, ``None`` for null.
        nullable: Whether each key's field may be null.
    """

    order: tuple[Order, ...]
    keys: tuple[Any, ...]
    nullable: tuple[bool, ...]

    @cached_property
    def predicate(self) -> Predicate:
        """The rows after the position, in lexicographic order.

        For keys *a*, *b*, *c*: after *a*, or equal in *a* and after *b*, or equal in both and
        after *c*; with nulls where each key of the order puts them.
        """
        branches: list[Predicate] = []
        equal: list[Predicate] = []
        for order, key, nullable in zip(self.order, self.keys, self.nullable, strict=True):
            after = _after(order, key, nullable=nullable)
            if after is not None:
                branches.append(And((*equal, after)) if equal else after)
            equal.append(IsNull(order.field) if key is None else Eq(order.field, key))
        if not branches:
            return In(self.order[0].field, ())
        return branches[0] if len(branches) == 1 else Or(tuple(branches))


def _after(order: Order, key: object, *, nullable: bool) -> Predicate | None:
    """Return the condition for values that sort strictly after ``key``; ``None`` for none."""
    if key is None:
        return Not(IsNull(order.field)) if order.nulls == "first" else None
    after: Predicate = Lt(order.field, key) if order.descending else Gt(order.field, key)
    if nullable and order.nulls == "last":
        return Or((after, IsNull(order.field)))
    return after


@dataclass(frozen=True)
class Select:
    """Which rows a backend returns, in which order.

    Args:
        where: The condition, which already includes the scope.
        order: Sort keys; a total order for every selection of more than one row.
        limit: Most rows to return; ``None`` for all.
        offset: Rows to skip first.
        seek: Where to start, beside ``where``.
    """

    where: Predicate | None = None
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0
    seek: Seek | None = None

    @cached_property
    def predicate(self) -> Predicate | None:
        """``where`` and ``seek`` in one condition."""
        return both(self.where, None if self.seek is None else self.seek.predicate)


def reverse(order: tuple[Order, ...]) -> tuple[Order, ...]:
    """Return the order that gives the same rows from the last to the first."""
    return tuple(
        replace(each, descending=not each.descending, nulls=_OTHER_END[each.nulls])
        for each in order
    )


_OTHER_END: dict[Any, Any] = {"first": "last", "last": "first"}
