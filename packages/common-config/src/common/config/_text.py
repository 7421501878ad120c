"""Files read whole, bounded, as UTF-8."""

import os
import stat
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from common.config._problem import Problem

LARGEST = 1024 * 1024  # bytes of one file: 1 MiB


@dataclass(frozen=True, slots=True)
class OptionalPath:
    """A path that need not exist; see `optional`."""

    path: Path


def optional(path: str | PathLike[str]) -> OptionalPath:
    """Mark a file or folder given to `load` as one that may be missing.

    Example:
        >>> optional("prod.yaml")
        OptionalPath(path=PosixPath('prod.yaml'))
    """
    return OptionalPath(Path(path))


AnyPath = str | PathLike[str] | OptionalPath


def split(path: AnyPath) -> tuple[Path, bool]:
    """Return the path, and whether it may be missing."""
    return (path.path, True) if isinstance(path, OptionalPath) else (Path(path), False)


def read_text(path: Path, *, may_be_missing: bool = False) -> str | Problem | None:
    """Return the text of a file, what prevents that, or ``None`` if it is missing and may be."""
    try:
        data = _read(path)
    except FileNotFoundError:
        missing = Problem("there is no such file; create it, or mark it as optional", "", str(path))
        return None if may_be_missing else missing
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        return Problem(f"cannot be read: {reason}", source=str(path))
    if data is None:
        return Problem("is not a regular file", source=str(path))
    if len(data) > LARGEST:
        return Problem(f"is larger than {LARGEST} bytes, the most allowed", source=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem("is not UTF-8 text; save it as UTF-8", source=f"{path}:{line}")


def _read(path: Path) -> bytes | None:
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
