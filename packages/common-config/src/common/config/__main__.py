"""``python -m common.config``: look at the settings of a service without starting it."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from common.config._descriptions import describe
from common.config._explain import explain_all
from common.config._load import load
from common.config._problem import ConfigError
from common.config._settings import BaseAppSettings, names_for
from common.config._text import optional

OK, WRONG, MISUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 fine, 1 problems found, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        settings = _find(options.settings)
        output = _run(options, settings)
    except ConfigError as error:
        if options.json:
            _write(json.dumps({"ok": False, **error.details}, indent=2))
        else:
            sys.stderr.write(f"{error.message}\n")
        return WRONG
    except (_UsageError, TypeError) as error:
        sys.stderr.write(f"common.config: {error}\n")
        return MISUSED
    _write(output)
    return OK


class _UsageError(Exception):
    pass


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("settings", metavar="MODULE:CLASS", help="such as orders.settings:Settings")
    common.add_argument("--json", action="store_true", help="write JSON")
    layers = argparse.ArgumentParser(add_help=False)
    for option, action, text in (
        ("file", "append", "YAML file; again for higher ones"),
        ("env-file", "store", "file of NAME=value lines"),
        ("secrets-dir", "store", "folder with a file for each secret"),
    ):
        name = option.replace("-", "_")
        add = partial(layers.add_argument, dest=name, action=action, metavar="PATH")
        add(f"--{option}", help=text)
        add(f"--optional-{option}", type=optional, help="the same, but it may be missing")
    parser = argparse.ArgumentParser(
        prog="python -m common.config",
        description="Look at the settings of a service without starting it.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, parents, text in (
        ("show", [common, layers], "the effective values and their sources, secrets masked"),
        ("check", [common, layers], "whether the settings can be loaded; else every problem"),
        ("env", [common], "every variable that the class understands, with type and default"),
        ("schema", [common], "the JSON Schema of the class"),
    ):
        commands.add_parser(name, parents=parents, help=text, description=text.capitalize() + ".")
    return parser


def _find(name: str) -> type[BaseAppSettings]:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise _UsageError(f"{name!r} does not name a class: write module:Class")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: object = import_module(module)
    except Exception as error:  # noqa: BLE001 - a foreign module may raise anything
        # Not its text, which may be anything: whoever needs it imports the module.
        kind = type(error).__name__
        raise _UsageError(
            f'importing {module} failed with {kind}; see python -c "import {module}"'
        ) from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, BaseAppSettings)):
        raise _UsageError(f"{name} is not a class derived from common.config.BaseAppSettings")
    return found


def _run(options: argparse.Namespace, settings: type[BaseAppSettings]) -> str:
    if options.command in {"env", "schema"}:
        describe(settings)
    if options.command == "schema":
        return json.dumps(settings.model_json_schema(), indent=2)
    if options.command == "env":
        return _variables(settings, as_json=options.json)
    loaded = load(
        settings,
        files=options.file or (),
        env_file=options.env_file,
        secrets_dir=options.secrets_dir,
    )
    explanations = explain_all(loaded)
    if options.command == "check":
        count = len(explanations)
        return json.dumps({"ok": True, "values": count}) if options.json else f"ok: {count} values"
    if options.json:
        shown: dict[str, Any] = {
            each.path: {
                "value": json.loads(each.value),
                "source": str(each.source),
                "overridden": [str(source) for source in each.overridden],
            }
            for each in explanations
        }
        return json.dumps(shown, indent=2)
    return _table([[each.path, each.value, each.origin] for each in explanations])


def _variables(settings: type[BaseAppSettings], *, as_json: bool) -> str:
    variables = names_for(settings).variables
    if as_json:
        return json.dumps(
            [
                {
                    "name": each.name,
                    "path": ".".join(map(str, each.path)),
                    "type": each.shape.label,
                    "required": each.is_required,
                    "default": _data(each.default),
                    "secret": each.is_secret,
                    "description": each.description,
                }
                for each in variables
            ],
            indent=2,
        )
    return _table(
        [
            [
                each.name,
                each.shape.label,
                "required" if each.is_required else each.default or "",
                " ".join(each.description.split()),
            ]
            for each in variables
        ]
    )


def _data(default: str | None) -> object:
    """Return a default, which is JSON text, as data; what a factory will make is not known."""
    try:
        return json.loads(default or "null")
    except ValueError:
        return None


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n" if text else "")


if __name__ == "__main__":
    sys.exit(main())
