"""Pages of entities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.db.core._cursor import Cursor
from common.errors import ValidationError

E = TypeVar("E")


@dataclass(frozen=True)
class Page(Generic[E]):
    """A page that starts at a cursor.

    Args:
        items: The entities.
        limit: How many were asked for.
        next: Cursor for ``after=`` to get the following page; ``None`` at the end.
        previous: Cursor for ``before=`` to get the page before; ``None`` at the start.
        total: Number of all entities that match, if it was asked for.
    """

    items: Sequence[E]
    limit: int
    next: Cursor | None = None
    previous: Cursor | None = None
    total: int | None = None

    def __iter__(self) -> Iterator[E]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class NumberedPage(Generic[E]):
    """A page with a number; rows inserted meanwhile move entities to other pages.

    Args:
        items: The entities.
        page: Its number, from 1.
        limit: How many were asked for.
        has_next: Whether there is a following page.
        total: Number of all entities that match, if it was asked for.
    """

    items: Sequence[E]
    page: int
    limit: int
    has_next: bool = False
    total: int | None = None

    def __iter__(self) -> Iterator[E]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Return ``value`` when it is an int within bounds.

    Raises:
        ValidationError: Naming the parameter and the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValidationError(f"{name} must be an int", field=name)
    if not low <= value <= high:
        raise ValidationError(f"{name} must be from {low} to {high}", field=name)
    return value
