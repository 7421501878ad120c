"""What Alembic does for a `MigrationManager`, on a connection given to it."""

import argparse
import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import alembic.command
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from common.db.postgres._migrations._constraints import constraint_changes
from common.db.postgres._migrations._drift import Drift, drifts
from common.db.postgres._migrations._revision import MigrationError, Revision

_LONGEST: Final = 90
"""Characters of a docstring's first line, so that it fits into most projects' lines."""


class Scripts:
    """A folder of migrations.

    Args:
        directory: The folder.
        metadata: The models' tables.
        schema: Where the table of versions is.
        ignored: Tables that no model describes, on purpose.
    """

    def __init__(
        self,
        directory: Path,
        metadata: sa.MetaData | None,
        *,
        schema: str | None,
        ignored: frozenset[str],
    ) -> None:
        self._directory = directory
        self._metadata = metadata
        self._schema = schema
        self._ignored = ignored

    def history(self) -> list[Revision]:
        """Return all migrations, oldest first."""
        with _errors():
            scripts = ScriptDirectory.from_config(self._config())
            return [_revision(each) for each in scripts.walk_revisions()][::-1]

    def heads(self, connection: sa.Connection) -> tuple[str, ...]:
        """Return the ids of the migrations that the database is at."""
        with _errors():
            return tuple(self._context(connection).get_current_heads())

    def upgrade(self, connection: sa.Connection, target: str) -> list[str]:
        """Apply migrations and return their ids."""
        applied: list[str] = []
        with _errors():
            alembic.command.upgrade(self._config(connection, applied=applied), target)
        return applied

    def downgrade(self, connection: sa.Connection, target: str) -> list[str]:
        """Undo migrations and return their ids."""
        undone: list[str] = []
        with _errors():
            alembic.command.downgrade(self._config(connection, applied=undone), target)
        return undone

    def differences(self, connection: sa.Connection) -> list[Drift]:
        """Return what differs between models and database."""
        models = self._models()
        with _errors():
            operations = produce_migrations(self._context(connection), models).upgrade_ops
        found = [] if operations is None else list(drifts(operations.as_diffs()))
        changes = constraint_changes(connection, models)
        return found + list(drifts([each.to_diff_tuple() for each in changes]))

    def revision(
        self, connection: sa.Connection, message: str, *, autogenerate: bool
    ) -> Revision | None:
        """Write a migration; ``None`` when the models equal the database."""

        def complete(_: MigrationContext, __: Any, directives: list[Any]) -> None:
            if not autogenerate:
                return
            script = directives[0]
            changes = list(constraint_changes(connection, self._models()))
            script.upgrade_ops.ops.extend(changes)
            script.downgrade_ops.ops[:0] = [each.reverse() for each in reversed(changes)]
            if script.upgrade_ops.is_empty():
                directives[:] = []

        with _errors():
            script: Any = alembic.command.revision(
                self._config(connection),
                _docstring(message),
                autogenerate=autogenerate,
                process_revision_directives=complete,
            )
        if not script:
            return None
        # Only what is filled in is mended: an empty migration has yet to use its imports.
        _tidy(script.path, mend=autogenerate)
        return _revision(script)

    def _models(self) -> sa.MetaData:
        assert self._metadata is not None  # noqa: S101 - the manager asks first
        return self._metadata

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "compare_type": True,
            "compare_server_default": True,
            "include_object": self._included,
        }
        if self._schema is not None:
            options["version_table_schema"] = self._schema
        return options

    def _included(self, *facts: Any) -> bool:
        _, name, kind, reflected, counterpart = facts
        forgotten = kind == "table" and reflected and counterpart is None
        return not (forgotten and name in self._ignored)

    def _context(self, connection: sa.Connection) -> MigrationContext:
        options = {**self._options(), "target_metadata": self._metadata}
        return MigrationContext.configure(connection, opts=options)

    def _config(
        self, connection: sa.Connection | None = None, *, applied: list[str] | None = None
    ) -> Config:
        def note(*, step: Any, **_: Any) -> None:
            if applied is not None:
                applied.extend(step.up_revision_ids)

        config = Config(cmd_opts=argparse.Namespace(quiet=True))
        config.set_main_option("script_location", str(self._directory).replace("%", "%%"))
        config.attributes["connection"] = connection
        config.attributes["metadata"] = self._metadata
        config.attributes["options"] = {**self._options(), "on_version_apply": note}
        return config


def _tidy(path: str, *, mend: bool) -> None:
    """Let ruff, where it is installed, write a file as the project around it wants it."""
    if importlib.util.find_spec("ruff") is None:
        return
    for command in [["check", "--fix-only"], ["format"]][not mend :]:
        ruff = [sys.executable, "-m", "ruff", *command, path]
        subprocess.run(ruff, check=False, capture_output=True)  # noqa: S603


def _docstring(message: str) -> str:
    """Return a message as a docstring has it: a sentence, and more below where it is long."""
    text = " ".join(message.replace("\\", "/").replace('"', "'").split()) or "Empty migration"
    text = text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
    if len(text) <= _LONGEST:
        return text
    first = textwrap.shorten(text, _LONGEST, placeholder=" ...")
    return f"{first}\n\n{textwrap.fill(text, _LONGEST)}"


def _revision(script: Any) -> Revision:
    down: Sequence[str] | str | None = script.down_revision
    before = (down,) if isinstance(down, str) else tuple(down or ())
    return Revision(script.revision, script.doc, before, Path(script.path))


@contextmanager
def _errors() -> Generator[None]:
    try:
        yield
    except CommandError as error:
        raise MigrationError(" ".join(str(error).split()), cause=error) from error
