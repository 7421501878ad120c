"""``python -m common.domain lock|check``: write or check the record of message schemas."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from common.domain._lock import Incompatibility, SchemaLockError, check_compatibility, schema_lock
from common.domain._message import Message
from common.domain._registry import registry

OWN = "common.domain"


class _StoppedError(Exception):
    """The command cannot do its work."""


_FAILURES = (
    OSError,
    UnicodeDecodeError,
    SchemaLockError,
    PydanticUserError,
    PydanticUndefinedAnnotation,  # a forward reference to nothing
    _StoppedError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: By default those of the process.

    Returns:
        The exit status: 0 when all is well, 1 when messages are incompatible with the lock or
        it is behind the code, 2 when the command could not do its work.
    """
    options = _parser().parse_args(arguments)
    try:
        messages = _messages(options.modules)
        return _lock(options, messages) if options.command == "lock" else _check(options, messages)
    except _FAILURES as error:
        _say(f"common.domain: {_line(error)}", error=True)
        return 2


def _lock(options: Namespace, messages: list[type[Message]]) -> int:
    path: Path = options.lock
    previous = path.read_text("utf-8") if path.exists() else None
    if previous is not None and not options.force:
        problems = check_compatibility(previous, messages)
        if problems:
            _report(problems, path)
            _say("the lock was not written; --force accepts these changes")
            return 1
    path.write_text(schema_lock(messages, previous=previous), "utf-8")
    _say(f"written to {path}: {_counted(messages, 'type')}")
    return 0


def _check(options: Namespace, messages: list[type[Message]]) -> int:
    path: Path = options.lock
    try:
        committed = path.read_text("utf-8")
    except FileNotFoundError:
        raise _StoppedError(
            f"{path}: there is no lock yet: write one with python -m common.domain lock"
        ) from None
    problems = check_compatibility(committed, messages, direction=options.direction)
    if problems:
        _report(problems, path)
        return 1
    _say(f"compatible with {path}: {_counted(messages, 'type')}")
    if schema_lock(messages, previous=committed) != committed:
        _say("the lock is behind the code: bring it up to date with python -m common.domain lock")
        return 1
    return 0


def _report(problems: Sequence[Incompatibility], path: Path) -> None:
    for problem in problems:
        _say(f"{problem}\n  fix: {problem.fix}")
    _say(f"incompatible with {path}: {_counted(problems, 'change')}")


def _messages(modules: Sequence[str]) -> list[type[Message]]:
    """Return the classes declared by some modules and whatever lies below them."""
    for module in modules:
        try:
            import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever the module raises
            raise _StoppedError(
                f"cannot import {module}: {type(error).__name__}: {_line(error)} "
                f"(for the traceback: python -c 'import {module}')"
            ) from None
    homes = modules or [OWN]
    found = [
        cls
        for cls in registry.all()
        if any(f"{cls.__module__}.".startswith(f"{home}.") for home in homes)
    ]
    if not found:
        raise _StoppedError(
            f"{', '.join(homes)} declare no message types: name the modules that hold classes "
            "derived from Event or Command"
        )
    return found


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m common.domain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lock = commands.add_parser("lock", help="write the schemas of all types to the lock")
    lock.add_argument(
        "--force", action="store_true", help="also when types became incompatible with the lock"
    )
    check = commands.add_parser("check", help="report what is incompatible with the lock")
    check.add_argument(
        "--direction",
        choices=["full", "backward", "forward"],
        default="full",
        help="backward: new code reads old messages; forward: old code reads new ones",
    )
    for command in (lock, check):
        command.add_argument(
            "--lock", type=Path, default=Path("schema-lock.json"), help="default: %(default)s"
        )
        command.add_argument(
            "modules", nargs="*", help=f"modules that declare types; default: {OWN} itself"
        )
    return parser


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _say(text: str, *, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
