"""The command ``common-outbox``: an outbox from a terminal, a probe or a container's start."""

import argparse
import asyncio
import dataclasses
import importlib
import json
import math
import sys
import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pydantic
from pydantic import SecretStr

from common.db.postgres import PostgresConfig, PostgresDatabase
from common.errors import AppError, ValidationError
from common.events.outbox._admin import DeadLetter, OutboxAdmin, OutboxStatus
from common.events.outbox._lag import Lag

Result = tuple[list[str], int]

_MOST_DAYS: Final = 36_500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed or too far behind, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        lines, code = asyncio.run(_run(options))
    except AppError as error:
        sys.stderr.write(f"common-outbox: {error.message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("common-outbox: interrupted\n")
        return 130
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="common-outbox",
        description="Looks after an outbox. The database is that of common-db: config in "
        "[tool.common-db] of pyproject.toml, unless an option names another.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config",
        metavar="MODULE:NAME",
        help="a PostgresConfig, or a function that returns one",
    )
    where.add_argument("--url-file", type=Path, help="a file that holds the URL; - for stdin")
    where.add_argument("--url", help="the URL; others on this machine can see it")
    parser.add_argument("--schema", help="schema of the tables")
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="what waits, who publishes it")
    lag = commands.add_parser("lag", help="how far behind; exit code 1 above the limits")
    lag.add_argument("--max-rows", type=_count, metavar="N", help="most messages that may wait")
    lag.add_argument(
        "--max-age", type=_amount, metavar="SECONDS", help="longest a message may wait"
    )
    dead = commands.add_parser("dead", help="list dead letters")
    dead.add_argument("--limit", type=_count, default=100)
    dead.add_argument("--after", type=_count, default=0, metavar="POSITION")
    for name, text in (
        ("retry", "put dead letters back into the outbox, behind all that waits"),
        ("discard", "delete dead letters for good"),
    ):
        some = commands.add_parser(name, help=text)
        some.add_argument("ids", nargs="*", metavar="ID", help="message ids")
        some.add_argument("--all", action="store_true", help="all of them")
        some.add_argument("--type", help="of this type only, such as call.completed")
    prune = commands.add_parser("prune", help="remove what is old from archive and inbox")
    prune.add_argument("--archive-days", type=_amount, metavar="DAYS")
    prune.add_argument("--inbox-days", type=_amount, metavar="DAYS")
    migrate = commands.add_parser("migrate", help="make or update the tables")
    migrate.add_argument("target", nargs="?", default="head")
    migrate.add_argument("--check", action="store_true", help="exit code 1 if that is needed")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


async def _run(options: argparse.Namespace) -> Result:
    config = _config(options)
    if options.command == "migrate":
        return await _migrate(config, options)
    if options.command in ("retry", "discard") and bool(options.ids) == options.all:
        raise ValidationError(f"{options.command}: give ids, or --all")
    async with PostgresDatabase(config) as database:
        return await _answer(OutboxAdmin(database), options)


async def _migrate(config: PostgresConfig, options: argparse.Namespace) -> Result:
    # Alembic is loaded here, not for a look at the lag.
    from common.events.outbox.migrations import OutboxMigrations  # noqa: PLC0415

    manager = OutboxMigrations(config)
    if options.check:
        pending = await manager.pending()
        shown = [f"not applied: {each}" for each in pending]
        return _json({"pending": pending}) if options.json else shown, 1 if pending else 0
    applied = await manager.upgrade(options.target)
    shown = [f"applied {each}" for each in applied] or ["nothing"]
    return _json({"applied": applied}) if options.json else shown, 0


async def _answer(admin: OutboxAdmin, options: argparse.Namespace) -> Result:
    match options.command:
        case "status":
            status = await admin.status()
            return _json(status) if options.json else _status(status), 0
        case "lag":
            lag = await admin.lag()
            behind = (options.max_rows is not None and lag.rows > options.max_rows) or (
                options.max_age is not None and lag.age > options.max_age
            )
            return _json(lag) if options.json else [_lag(lag)], 1 if behind else 0
        case "dead":
            letters = await admin.dead(limit=options.limit, after=options.after)
            return _json(letters) if options.json else [_dead(each) for each in letters], 0
        case "prune":
            archive, inbox = await admin.prune(
                archive=_days(options.archive_days), inbox=_days(options.inbox_days)
            )
            shown = [f"removed {archive} from the archive and {inbox} from the inbox"]
            return _json({"archive": archive, "inbox": inbox}) if options.json else shown, 0
        case "retry":
            done = await admin.retry(options.ids or None, type=options.type)
        case _:
            done = await admin.discard(options.ids or None, type=options.type)
    verb = "put back" if options.command == "retry" else "discarded"
    missing = max(0, len(set(options.ids)) - done)
    if options.json:
        return _json({"done": done, "missing": missing}), 1 if missing else 0
    lines = [f"{verb} {done}"] + [f"{missing} of the ids are no dead letters"] * bool(missing)
    return lines, 1 if missing else 0


def _status(status: OutboxStatus) -> list[str]:
    lines = [_lag(status.lag), f"partitions without a relay: {status.free}"]
    for each in status.relays:
        state = "alive" if each.alive else "gone"
        lines.append(f"relay {each.owner}: {state}, {each.partitions} partitions")
    return [*lines, *(_shown(f"{number} wait after {error}") for error, number in status.errors)]


def _lag(lag: Lag) -> str:
    return (
        f"waiting: {lag.rows}, for {lag.age:.1f} s; failing: {lag.failing}; "
        f"dead letters: {lag.dead}"
    )


def _dead(letter: DeadLetter) -> str:
    return _shown(
        f"{letter.position}  {letter.id}  {letter.type}  key={letter.key}  {letter.size} bytes  "
        f"{letter.died:%Y-%m-%d %H:%M:%S}  {letter.attempts} attempts  {letter.error}"
    )


def _shown(line: str) -> str:
    # Keys and errors come from outside: none may move the cursor of a terminal.
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in line)


def _json(value: object) -> list[str]:
    return [json.dumps(value, default=_plain)]


def _plain(value: Any) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _days(days: float | None) -> timedelta | None:
    if days is not None and days > _MOST_DAYS:
        raise ValidationError(f"days are 0 to {_MOST_DAYS}")
    return None if days is None else timedelta(days=days)


def _config(options: argparse.Namespace) -> PostgresConfig:
    url, schema = options.url, options.schema
    if options.url_file is not None:
        url = _read(options.url_file)
    try:
        if url is not None:
            return PostgresConfig(url=SecretStr(url), schema_name=schema)
        name = options.config or _project().get("config")
        if name is None:
            raise ValidationError(
                "say which database: --config MODULE:NAME or --url-file FILE, or config in "
                "[tool.common-db] of pyproject.toml"
            )
        found = _load(name)
        schema = schema or _project().get("schema")
        if schema is None:
            return found
        return PostgresConfig.model_validate({**dict(found), "schema_name": schema})
    except pydantic.ValidationError as error:
        raise ValidationError(f"the configuration is wrong: {_told(error)}") from None


def _project() -> dict[str, Any]:
    """Return ``[tool.common-db]`` of the project in the current folder."""
    path = Path("pyproject.toml")
    try:
        return dict(tomllib.loads(path.read_text()).get("tool", {}).get("common-db", {}))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {error}") from error


def _read(path: Path) -> str:
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {type(error).__name__}") from error


def _load(name: str) -> PostgresConfig:
    module, separator, attribute = name.partition(":")
    if not separator:
        raise ValidationError("--config looks like package.module:name")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as for `python -m`
    try:
        found = getattr(importlib.import_module(module), attribute)
        found = found() if callable(found) else found
    except (ImportError, AttributeError, TypeError) as error:
        raise ValidationError(f"--config {name}: {error}") from error
    except pydantic.ValidationError:
        raise
    except Exception as error:  # of code that is not ours, and may quote secrets
        raise ValidationError(f"--config {name}: it raised {type(error).__name__}") from error
    if not isinstance(found, PostgresConfig):
        raise ValidationError(f"{name} is no PostgresConfig")
    return found


def _told(error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}"
        for each in problems
    )


if __name__ == "__main__":
    sys.exit(main())
