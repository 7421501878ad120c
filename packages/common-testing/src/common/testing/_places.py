"""Where servers keep their files, and as whom they run."""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

from common.testing._errors import ServerError

AMPLE = 1_000_000_000  # bytes free in memory before we put data there
NEEDED = 200_000_000  # bytes a fresh server needs on any file system


def _reachable(path: Path) -> bool:
    """Whether every user can enter this folder."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _suitable(base: Path, *, everybody: bool, needed: int) -> bool:
    try:
        return (
            os.access(base, os.W_OK | os.X_OK)
            and shutil.disk_usage(base).free >= needed
            and (not everybody or _reachable(base))
        )
    except OSError:
        return False


def base_directory(
    *, memory: bool = False, everybody: bool = False, executable: bool = False
) -> Path:
    """A folder for a server's own directory.

    Args:
        memory: Prefer a file system in memory when it has ample space.
        everybody: Other users must be able to enter it.
        executable: Programs in it must be allowed to run.

    Raises:
        ServerError: There is none with enough free space.
    """
    chosen = os.environ.get("COMMON_TESTING_DIRECTORY")
    if chosen:
        candidates = [Path(chosen)]
    else:
        try:
            temporary = tempfile.gettempdir()
        except FileNotFoundError as error:
            raise ServerError(
                f"no usable folder for temporary files: set TMPDIR ({error})"
            ) from error
        candidates = [Path(temporary), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
        if memory and _suitable(Path("/dev/shm"), everybody=everybody, needed=AMPLE):  # noqa: S108
            candidates.insert(0, Path("/dev/shm"))  # noqa: S108
    for base in candidates:
        if _suitable(base, everybody=everybody, needed=NEEDED) and not (
            executable and os.statvfs(base).f_flag & getattr(os, "ST_NOEXEC", 0)
        ):
            return base.resolve()
    wanted = ["writable", f"{NEEDED // 1_000_000} MB free"]
    wanted += ["open to other users"] * everybody + ["not mounted noexec"] * executable
    raise ServerError(
        f"no suitable folder among {', '.join(map(str, candidates))} ({', '.join(wanted)}): "
        "free some space, or name another with COMMON_TESTING_DIRECTORY"
    )


def session_base() -> Path | None:
    """Where all processes of a test session keep the servers that they share.

    Chosen once, because free space changes; None if there is no such folder, which a process
    that needs one will report.
    """
    try:
        return base_directory(memory=True, everybody=os.geteuid() == 0)
    except ServerError:
        return None


def unprivileged_user() -> tuple[int, int] | None:
    """User and group id for programs that refuse to run as root; None when we are not root.

    Raises:
        ServerError: There is no such user.
    """
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return entry.pw_uid, entry.pw_gid
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no user 'nobody': run as another user"
    )


def can_run(path: Path, user: tuple[int, int] | None) -> bool:
    """Whether that user (None: ourselves) can reach and run a program."""
    if user is None:
        return os.access(path, os.X_OK)
    return bool(path.stat().st_mode & 0o001) and _reachable(path.resolve().parent)


def copy_tree(source: Path, target: Path) -> None:
    """Hard-link a tree, or copy it where links cannot reach."""
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=os.link)
    except (shutil.Error, OSError):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
