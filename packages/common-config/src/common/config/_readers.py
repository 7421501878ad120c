"""Variables of the process, of a .env file and of a folder of secret files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dotenv.parser import parse_stream

from common.config._bind import Entry
from common.config._node import Source
from common.config._problem import Problem, did_you_mean, dotted, printable
from common.config._text import read_text
from common.config._variables import Names


class Reader(Protocol):
    """Reads variables of a file or folder: `read_env_file` and `read_secrets`."""

    def __call__(
        self, path: Path, names: Names, /, *, may_be_missing: bool
    ) -> tuple[list[Entry], list[Problem]]: ...


def read_environment(environ: Mapping[str, str]) -> list[Entry]:
    """Return the variables of a process."""
    return [Entry(name, text, Source("environment", name)) for name, text in environ.items()]


def read_env_file(
    path: Path, names: Names, *, may_be_missing: bool
) -> tuple[list[Entry], list[Problem]]:
    """Return the variables of a .env file with their lines, and what is wrong with it.

    The syntax is python-dotenv's. Nothing is interpolated: a ``$`` is a ``$``.
    """
    text = read_text(path, may_be_missing=may_be_missing)
    if text is None:
        return [], []
    if isinstance(text, Problem):
        return [], [text]
    entries: list[Entry] = []
    problems: list[Problem] = []
    for binding in parse_stream(io.StringIO(text)):
        skipped = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string.count("\n", 0, skipped)
        source = Source("env-file", str(path), line)
        if binding.error:
            problems.append(Problem("is not of the form NAME=value", source=str(source)))
        elif binding.key is not None and binding.value is not None:
            entries.append(Entry(binding.key, binding.value, source))
        elif binding.key is not None and names.is_watched(binding.key):
            name = printable(binding.key)
            problems.append(
                Problem(f"{name} has no value; write {name}= for an empty one", source=str(source))
            )
    return entries, problems


def read_secrets(
    folder: Path, names: Names, *, may_be_missing: bool
) -> tuple[list[Entry], list[Problem]]:
    """Return one variable for each file of a folder that is meant for these settings.

    As Docker (``/run/secrets``) and Kubernetes (a mounted secret volume) give them. The name
    of a file is that of the variable, in any case, or the field's path (``db.password``). Fields
    at the top have the variable's name only: ``token`` in a shared folder may be anybody's.
    Newlines at the end are cut off. Hidden files are passed over: Kubernetes keeps its own there.
    """
    try:
        found = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except FileNotFoundError:
        if may_be_missing:
            return [], []
        return [], [
            Problem(
                "there is no such folder; create it, or mark it as optional", source=str(folder)
            )
        ]
    except OSError as error:
        return [], [Problem(f"cannot be read as a folder: {error.strerror}", source=str(folder))]
    nested = {dotted(each.path): each.name for each in names.variables if len(each.path) > 1}
    variables = {path.upper(): name for path, name in nested.items()}
    entries: list[Entry] = []
    problems: list[Problem] = []
    for file in found:
        name = _variable(file, variables)
        source = Source("secret-file", str(folder / file))
        if not names.is_watched(name):
            # Other files are not ours, unless one is nearly the path of a field.
            if "." in file and (close := did_you_mean(file, list(nested))):
                problems.append(Problem(f"unknown field{close}", source=str(source)))
            continue
        if names.find(name) is None:
            entries.append(Entry(name, "", source))  # unknown, to be reported
            continue
        text = read_text(folder / file)
        if isinstance(text, str):
            entries.append(Entry(name, text.rstrip("\r\n"), source))
        elif text is not None:
            problems.append(text)
    return entries, problems


def _variable(file: str, variables: Mapping[str, str]) -> str:
    """Return the variable for a path such as ``db.password``, or ``limits.eu`` in a mapping."""
    path = file.upper()
    if path in variables:
        return variables[path]
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if free := variables.get(".".join([*parts[:length], "<KEY>"])):
            return free.removesuffix("<KEY>") + "__".join(parts[length:])
    return file
