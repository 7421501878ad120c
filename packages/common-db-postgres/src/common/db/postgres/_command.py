"""The command ``common-db``: migrations, from a terminal or a container's start."""

import argparse
import asyncio
import importlib
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import sqlalchemy as sa
from pydantic import SecretStr

from common.db.postgres._config import PostgresConfig
from common.db.postgres._names import quote
from common.errors import AppError, ValidationError

if TYPE_CHECKING:
    from common.db.postgres.migrations import MigrationManager

_TABLE = "common-db"
_SETTINGS = ("config", "directory", "metadata", "ignore-tables", "schema")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed or drift, 2 wrong usage."""
    try:
        options = _parser(_settings(Path("pyproject.toml"))).parse_args(arguments)
        lines, code = asyncio.run(_run(options))
    except AppError as error:
        sys.stderr.write(f"common-db: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("common-db: interrupted\n")
        return 130
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return code


def _settings(path: Path) -> dict[str, Any]:
    """Return ``[tool.common-db]`` of the project in the current folder."""
    try:
        found = tomllib.loads(path.read_text()).get("tool", {}).get(_TABLE, {})
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {error}") from error
    for name in found:
        if name not in _SETTINGS:
            raise ValidationError(
                f"{path}: [tool.{_TABLE}] has no {name!r}; it has {', '.join(_SETTINGS)}"
            )
    return dict(found)


def _parser(settings: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="common-db",
        description="Migrations of a PostgreSQL database. Options may stand in [tool.common-db] "
        "of pyproject.toml.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config",
        metavar="MODULE:NAME",
        default=settings.get("config"),
        help="a PostgresConfig, or a function that returns one",
    )
    where.add_argument("--url-file", type=Path, help="a file that holds the URL; - for stdin")
    where.add_argument("--url", help="the URL; others on this machine can see it")
    parser.add_argument("--schema", default=settings.get("schema"), help="schema of the tables")
    parser.add_argument(
        "--directory", type=Path, default=Path(settings.get("directory", "migrations"))
    )
    parser.add_argument(
        "--metadata",
        metavar="MODULE:NAME",
        default=settings.get("metadata"),
        help="the models' MetaData, or a class with an attribute metadata",
    )
    parser.set_defaults(ignored=tuple(settings.get("ignore-tables", ())))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("init", help="make the folder of migrations")
    revision = commands.add_parser("revision", help="write a migration")
    revision.add_argument("-m", "--message", required=True)
    revision.add_argument("--empty", action="store_true", help="do not compare with the database")
    upgrade = commands.add_parser("upgrade", help="apply migrations")
    upgrade.add_argument("target", nargs="?", default="head")
    downgrade = commands.add_parser("downgrade", help="undo migrations")
    downgrade.add_argument("target", help='a revision, "-1", or "base"')
    commands.add_parser("current", help="show where the database is")
    commands.add_parser("history", help="list all migrations")
    commands.add_parser("check", help="fail when models, migrations and database differ")
    schema = commands.add_parser("ensure-schema", help="make a schema unless it exists")
    schema.add_argument("name")
    return parser


async def _run(options: argparse.Namespace) -> tuple[list[str], int]:
    # Alembic is loaded here, not for a wrong option.
    from common.db.postgres.migrations import MigrationManager  # noqa: PLC0415

    offline = options.command in ("init", "history")
    manager = MigrationManager(
        _config(options, offline=offline),
        options.directory,
        _metadata(options),
        ignore_tables=options.ignored,
    )
    if options.command == "check":
        lines = [f"not applied: {each}" for each in await manager.pending()]
        lines += [f"drift: {each}" for each in await manager.check()]
        return (lines, 1) if lines else (["models, migrations and database agree"], 0)
    return await _say(manager, options), 0


async def _say(manager: "MigrationManager", options: argparse.Namespace) -> list[str]:
    lines: list[str]
    match options.command:
        case "init":
            lines = [f"made {await manager.init()}"]
        case "history":
            lines = [f"{each.id}  {each.message}" for each in await manager.history()]
        case "revision":
            written = await manager.revision(options.message, autogenerate=not options.empty)
            lines = [f"wrote {written.path}" if written else "nothing differs: no file"]
        case "upgrade":
            lines = [f"applied {each}" for each in await manager.upgrade(options.target)]
        case "downgrade":
            lines = [f"undid {each}" for each in await manager.downgrade(options.target)]
        case "current":
            lines = list(await manager.current())
        case _:
            await manager.ensure_schema(options.name)
            lines = [f"schema {options.name} exists"]
    return lines or ["nothing"]


def _config(options: argparse.Namespace, *, offline: bool) -> PostgresConfig:
    url = options.url
    if options.url_file is not None:
        url = _read(options.url_file)
    if url is not None or offline:
        try:
            found = SecretStr(url or "postgresql://nobody@localhost/none")
            return PostgresConfig(url=found, schema_name=options.schema)
        except pydantic.ValidationError as error:
            raise ValidationError(f"the URL or schema is wrong: {_told(error)}") from None
    if options.config is None:
        raise ValidationError(
            "say which database: --config MODULE:NAME or --url-file FILE, or config in "
            "[tool.common-db] of pyproject.toml"
        )
    found = _load(options.config, "--config")
    try:
        found = found() if callable(found) else found
    except pydantic.ValidationError as error:
        raise ValidationError(f"{options.config} made no configuration: {_told(error)}") from None
    if not isinstance(found, PostgresConfig):
        raise ValidationError(f"{options.config} is no PostgresConfig")
    if options.schema is not None:
        quote(options.schema)
        return found.model_copy(update={"schema_name": options.schema})
    return found


def _read(path: Path) -> str:
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {type(error).__name__}") from error


def _metadata(options: argparse.Namespace) -> sa.MetaData | None:
    if options.metadata is None or options.command in ("init", "history", "ensure-schema"):
        return None
    found = _load(options.metadata, "--metadata")
    found = found if isinstance(found, sa.MetaData) else getattr(found, "metadata", None)
    if not isinstance(found, sa.MetaData):
        raise ValidationError(f"{options.metadata} has no MetaData")
    return found


def _load(name: str, option: str) -> Any:
    module, separator, attribute = name.partition(":")
    if not separator:
        raise ValidationError(f"{option} looks like package.module:name")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as for `python -m`
    try:
        return getattr(importlib.import_module(module), attribute)
    except pydantic.ValidationError as error:
        raise ValidationError(f"{option} {name}: {_told(error)}") from None
    except (ImportError, AttributeError, ValueError) as error:
        raise ValidationError(f"{option} {name}: {error}") from error


def _told(error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}"
        for each in problems
    )
