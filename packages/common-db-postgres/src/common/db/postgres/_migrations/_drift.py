"""What differs between models and database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Drift:
    """One difference; the change would make the database fit the models.

    Args:
        change: Such as ``"add_column"`` or ``"modify_type"``, as Alembic names it.
        table: Name of the table.
        name: Name of the column, index or constraint; empty for a whole table.
    """

    change: str
    table: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.change} {self.table}{'.' if self.name else ''}{self.name}"


def drifts(differences: Sequence[Any]) -> Iterator[Drift]:
    """Yield what Alembic's ``as_diffs()`` holds, flattened."""
    for each in differences:
        if isinstance(each, list):
            yield from drifts(each)
        else:
            yield _drift(*each)


def _drift(change: str, *facts: Any) -> Drift:
    if change.startswith("modify_"):
        return Drift(change, facts[1], str(facts[2]))
    subject = facts[-1]
    if isinstance(subject, str):
        return Drift(change, facts[0], subject)
    if change.endswith("_column"):
        return Drift(change, str(facts[1]), str(subject.name))
    if change.endswith("_table"):
        return Drift(change, str(subject.name))
    table = getattr(subject, "table", None)
    return Drift(change, "" if table is None else str(table.name), str(subject.name))
