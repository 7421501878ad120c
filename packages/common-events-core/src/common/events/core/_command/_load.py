"""Finds what the options name: objects of the service's code, files, transports."""

import importlib
import inspect
import sys
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_type_hints

import pydantic

from common.errors import AppError, ValidationError
from common.events.core._bus import EventBus
from common.events.core._transport import Transport

TABLE = "common-events"
SETTINGS = ("app", "modules", "lock", "transport", "config")
GROUP = "common.events.transports"


def settings(path: Path) -> dict[str, Any]:
    """Return ``[tool.common-events]`` of the project in the current folder.

    Raises:
        ValidationError: It cannot be read, or has a name that is none of ours.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get(TABLE, {})
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {error}") from error
    for name in found:
        if name not in SETTINGS:
            raise ValidationError(
                f"{path}: [tool.{TABLE}] has no {name!r}; it has {', '.join(SETTINGS)}"
            )
    return dict(found)


def load(name: str, option: str) -> Any:
    """Return an object of the service's code.

    Args:
        name: ``MODULE:NAME``.
        option: Where it was given, for messages.

    Raises:
        ValidationError: There is no such module or name, or importing it fails.
    """
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        raise ValidationError(f"{option} {name}: give package.module:name")
    found = load_module(module, f"{option} {name}")
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ValidationError(f"{option} {name}: {error}") from error
    return found


def load_module(name: str, option: str) -> Any:
    """Import a module, from the current folder too.

    Raises:
        ValidationError: That fails.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as for `python -m`
    try:
        return importlib.import_module(name)
    except pydantic.ValidationError as error:
        raise ValidationError(f"{option}: {told(error)}") from None
    except AppError as error:
        raise ValidationError(f"{option}: importing {name} failed: {error.message}") from error
    except Exception as error:
        raise ValidationError(
            f"{option}: importing {name} failed with {_first_line(error)}"
        ) from error


def call(found: Any, option: str) -> Any:
    """Return what a function makes, and anything else as it is.

    Raises:
        ValidationError: The function fails.
    """
    if isinstance(found, EventBus | Transport | pydantic.BaseModel | type) or not callable(found):
        return found
    try:
        made = found()
    except pydantic.ValidationError as error:
        raise ValidationError(f"{option}: {told(error)}") from None
    except AppError as error:
        raise ValidationError(f"{option}: {error.message}") from error
    except Exception as error:
        raise ValidationError(f"{option}: calling it failed with {_first_line(error)}") from error
    if inspect.iscoroutine(made):
        made.close()
        raise ValidationError(f"{option} is a coroutine function: name one declared with def")
    return made


def transport_of(name: str | None, config: str | None, url_file: Path | None) -> Transport:
    """Return a transport that is not open yet.

    Args:
        name: Of the entry point, such as ``"nats"``.
        config: ``MODULE:NAME`` of a transport, of what its constructor takes, or of a function
            that returns either.
        url_file: File that holds the broker's URL; ``-`` for stdin.

    Raises:
        ValidationError: Something is missing or wrong; says what to do.
    """
    given: Any = None
    if config is not None:
        option = f"--config {config}"
        given = call(load(config, "--config"), option)
        given = given.transport if isinstance(given, EventBus) else given
        if isinstance(given, Transport):
            return given
    if name is None:
        raise ValidationError(
            "say which broker: --app MODULE:BUS, or --transport NAME with --url-file FILE or "
            f"--config MODULE:NAME; these may stand in [tool.{TABLE}] of pyproject.toml, too"
        )
    cls = _transport_class(name)
    try:
        if url_file is not None:
            given = _config_of_url(name, cls, _read(url_file))
        made: Transport = cls() if given is None else cls(given)
    except pydantic.ValidationError as error:
        raise ValidationError(f"the configuration of {name} is wrong: {told(error)}") from None
    except TypeError as error:
        if given is None:
            how = "say where it is: --url-file FILE, or --config MODULE:NAME"
            raise ValidationError(f"--transport {name}: {how}") from error
        raise ValidationError(f"--transport {name} needs another --config: {error}") from error
    return made


def _transport_class(name: str) -> Any:
    found: dict[str, EntryPoint] = {each.name: each for each in entry_points(group=GROUP)}
    if name not in found:
        raise ValidationError(
            f"no transport {name!r} is installed (there are {', '.join(sorted(found)) or 'none'}): "
            f"install common-events-{name}"
        )
    return found[name].load()


def _config_of_url(name: str, cls: Any, url: str) -> Any:
    """Return the configuration a transport's constructor takes, made of a URL alone."""
    model = get_type_hints(cls.__init__).get("config")
    if isinstance(model, type) and issubclass(model, pydantic.BaseModel):
        for field in ("url", "servers"):
            if field in model.model_fields:
                return model(**{field: url})
    raise ValidationError(f"--url-file: {name} is not configured by a URL: use --config")


def _read(path: Path) -> str:
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationError(f"{path} cannot be read: {type(error).__name__}") from error


def _first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def told(error: pydantic.ValidationError) -> str:
    """Return what is wrong, without the values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}"
        for each in problems
    )
