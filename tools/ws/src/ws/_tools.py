"""Running other programs, and remembering what they said."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from ws._workspace import Workspace, WorkspaceError


def run(*command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in a folder, and keep what it prints."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def tool(name: str) -> str:
    """Path of a program of this environment."""
    return str(Path(sys.executable).with_name(name))


def uv() -> str:
    """Path of uv.

    Raises:
        WorkspaceError: If it is nowhere.
    """
    found = os.environ.get("UV") or shutil.which("uv")
    if found is None:
        raise WorkspaceError("uv is not on PATH: run this through make, which brings it")
    return found


def import_path(workspace: Workspace) -> str:
    """Every member's own modules, as a PYTHONPATH or MYPYPATH."""
    folders = (member.path / "src" for member in workspace.members.values())
    return os.pathsep.join(str(folder) for folder in folders if folder.is_dir())


def digest(files: Iterable[Path]) -> str:
    """One hash for the content of these files, this Python and all installed distributions."""
    found = hashlib.sha256(sys.version.encode())
    for line in sorted(f"{one.name}=={one.version}" for one in distributions()):
        found.update(line.encode())
    for file in sorted(files):
        found.update(f"{file}\0".encode() + file.read_bytes())
    return found.hexdigest()


class Passed:
    """Remembers that a check passed, until what it looked at changes."""

    def __init__(self, workspace: Workspace, name: str, files: Iterable[Path]) -> None:
        self._file = workspace.cache / f"{name}.passed"
        self._key = digest(files)

    def __bool__(self) -> bool:
        return self._file.is_file() and self._file.read_text("utf-8") == self._key

    def remember(self) -> None:
        """Say that it passed."""
        self._file.write_text(self._key, "utf-8")
