"""What Alembic leaves out of its comparison: primary keys, and what check constraints say."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations.ops import ExecuteSQLOp
from sqlalchemy.exc import DBAPIError

_COPY: Final = "pg_temp.common_drift"
_DEFINITIONS: Final = sa.text(
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE conrelid = to_regclass(:table) AND contype::text = :kind"
)
_PIECES: Final = re.compile(r".{1,70}(?: |$)| ?[^ ]+ ?", re.DOTALL)
_BIND: Final = re.compile(r"(?<![:\w\\]):(?=\w)")
"""What `sqlalchemy.text` takes for a parameter."""


class ConstraintChange(ExecuteSQLOp):
    """A change of one constraint, which a migration executes as SQL.

    Args:
        change: As Alembic would name it, such as ``"add_constraint"``.
        table: Name of the table.
        name: Name of the constraint.
        statements: What makes the change, and what undoes it.
    """

    def __init__(self, change: str, table: str, name: str, statements: tuple[str, str]) -> None:
        super().__init__(_BIND.sub(r"\\:", statements[0]))
        self._facts = (change, table, name)
        self._statements = statements

    def to_diff_tuple(self) -> Any:
        """Return what `_drift` makes a `Drift` of."""
        return self._facts

    def reverse(self) -> "ConstraintChange":
        """Return what undoes it."""
        return ConstraintChange(*self._facts, (self._statements[1], self._statements[0]))


@renderers.dispatch_for(ConstraintChange)
def _render(_: Any, change: ConstraintChange) -> str:
    """Return the line of a migration, or several where it would be long."""
    pieces = _PIECES.findall(str(change.sqltext))
    return "op.execute(\n" + "".join(f"    {piece!r}\n" for piece in pieces) + ")"


def constraint_changes(
    connection: sa.Connection, metadata: sa.MetaData
) -> Iterator[ConstraintChange]:
    """Yield what would make constraints of tables that exist fit the models."""
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        if inspector.has_table(table.name, schema=table.schema):
            yield from _primary_key(connection, table)
            yield from _checks(connection, table)


def _primary_key(connection: sa.Connection, table: sa.Table) -> Iterator[ConstraintChange]:
    quote = connection.dialect.identifier_preparer.quote
    target = _quoted(connection, table)
    columns = ", ".join(quote(column.name) for column in table.primary_key.columns)
    wanted = f"PRIMARY KEY ({columns})" if columns else None
    name = _name(connection, table.primary_key)
    stored, definition = next(iter(_definitions(connection, target, "p").items()), (None, None))
    if stored is not None and wanted == definition:
        if name not in (None, stored):
            rename = f"ALTER TABLE {target} RENAME CONSTRAINT {{}} TO {{}}"
            old, new = quote(stored), quote(name)
            yield ConstraintChange(
                "rename_constraint",
                table.name,
                str(name),
                (rename.format(old, new), rename.format(new, old)),
            )
        return
    if stored is not None:
        yield _dropped(target, table.name, stored, f"{quote(stored)} {definition}", quote(stored))
    if wanted is not None:
        name = name or f"{table.name}_pkey"  # as PostgreSQL names it
        yield _added(target, table.name, name, f"{quote(name)} {wanted}", quote(name))


def _checks(connection: sa.Connection, table: sa.Table) -> Iterator[ConstraintChange]:
    quote = connection.dialect.identifier_preparer.quote
    target = _quoted(connection, table)
    stored = _definitions(connection, target, "c")
    declared = {
        name: f"CHECK ({_sql(connection, each)})"
        for each in table.constraints
        if isinstance(each, sa.CheckConstraint) and (name := _name(connection, each)) is not None
    }
    both = {name: declared[name] for name in declared if name in stored}
    changed = {
        name
        for name, definition in _as_stored(connection, target, both).items()
        if definition != stored[name]
    }
    for name in sorted(stored.keys() - declared.keys() | changed):
        yield _dropped(target, table.name, name, f"{quote(name)} {stored[name]}", quote(name))
    for name in sorted(declared.keys() - stored.keys() | changed):
        yield _added(target, table.name, name, f"{quote(name)} {declared[name]}", quote(name))


def _as_stored(connection: sa.Connection, target: str, checks: dict[str, str]) -> dict[str, str]:
    """Return how the server would write these checks, which it does only for a table's own."""
    quote = connection.dialect.identifier_preparer.quote
    if not checks:
        return {}
    trial = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE common_drift (LIKE {target})")
        for name, definition in checks.items():
            try:
                with connection.begin_nested():
                    connection.exec_driver_sql(
                        f"ALTER TABLE {_COPY} ADD CONSTRAINT {quote(name)} {definition}"
                    )
            except DBAPIError:  # it names a column that is missing: drift that others report
                continue
        return _definitions(connection, _COPY, "c")
    finally:
        trial.rollback()


def _definitions(connection: sa.Connection, table: str, kind: str) -> dict[str, str]:
    """Return a table's constraints of one kind of ``pg_constraint.contype``, by name."""
    rows: Sequence[Any] = connection.execute(_DEFINITIONS, {"table": table, "kind": kind}).all()
    return {name: definition.removesuffix(" NOT VALID") for name, definition in rows}


def _sql(connection: sa.Connection, check: sa.CheckConstraint) -> str:
    options = {"include_table": False, "literal_binds": True}
    return str(check.sqltext.compile(dialect=connection.dialect, compile_kwargs=options))


def _name(connection: sa.Connection, constraint: sa.Constraint) -> str | None:
    """Return the name as it is stored, after conventions and shortening."""
    name = connection.dialect.identifier_preparer.format_constraint(constraint)
    if name is None or not name.startswith('"'):
        return name
    return name[1:-1].replace('""', '"')


def _quoted(connection: sa.Connection, table: sa.Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _added(target: str, table: str, name: str, definition: str, quoted: str) -> ConstraintChange:
    return ConstraintChange("add_constraint", table, name, _statements(target, definition, quoted))


def _dropped(target: str, table: str, name: str, definition: str, quoted: str) -> ConstraintChange:
    undo, do = _statements(target, definition, quoted)
    return ConstraintChange("remove_constraint", table, name, (do, undo))


def _statements(target: str, definition: str, quoted: str) -> tuple[str, str]:
    return (
        f"ALTER TABLE {target} ADD CONSTRAINT {definition}",
        f"ALTER TABLE {target} DROP CONSTRAINT {quoted}",
    )
