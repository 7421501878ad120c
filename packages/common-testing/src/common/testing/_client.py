"""Talks to a guard process: starts it, holds its lock, asks it to do things."""

import asyncio
import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from common.testing import _guard
from common.testing._errors import ServerError

ANSWER_TIMEOUT = 30.0  # seconds; the longest command kills a tree, 10 s at worst


class GuardClient:
    """One guard, as seen by the process that started it.

    Requests are tiny round trips to another process on this machine (well under a
    millisecond), so they are plain calls; only starting and ending wait without blocking.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lock = -1
        self._sent = 0
        self._received = b""
        self.directories: list[Path] = []

    @classmethod
    async def launch(
        cls, bases: Sequence[Path], *, name: str = "", mode: int = 0o700
    ) -> Self | None:
        """Start a guard with a directory below each base; None if the named one exists already.

        Raises:
            ServerError: The guard cannot be started, or no directory made.
        """
        control, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - as long as asyncio's own takes
                    [sys.executable, "-I", "-S", _guard.__file__],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                control.close()
                raise ServerError(f"cannot run {sys.executable}: {error}") from error
        control.settimeout(ANSWER_TIMEOUT)
        guard = cls(control)
        try:
            number = guard._send("init", bases=[str(base) for base in bases], name=name, mode=mode)
            while (reply := guard._receive(number, timeout=0)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            if "exists" in reply:
                guard.leave()
                return None
            guard.directories = [Path(directory) for directory in reply["directories"]]
            guard._lock = hold(guard.directories[0])
            guard.ask("hold")
        except BaseException:
            guard.leave()
            raise
        finally:
            process.wait()  # it forks and returns at once, so there is no child to wait for later
        return guard

    @property
    def directory(self) -> Path:
        """The guard's first directory; it goes when the guard goes."""
        return self.directories[0]

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return its reply.

        Raises:
            ServerError: The guard refuses, or is no longer there.
        """
        reply = self._receive(self._send(command, **fields), timeout=ANSWER_TIMEOUT)
        if reply is None:
            raise ServerError(f"the guard process did not answer within {ANSWER_TIMEOUT:g} s")
        return reply

    def leave(self) -> None:
        """Let go: the guard ends when no other process holds its lock. Idempotent."""
        self._control.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def end(self, timeout: float) -> None:  # noqa: ASYNC109
        """Make the guard stop and remove everything; wait for that at most `timeout` seconds."""
        try:
            self._send("end")
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                self._receive(-1, timeout=0)
                await asyncio.sleep(0.002)
        except ServerError:  # it is gone: as we asked, or because somebody killed it
            self._remove_directories()
        finally:
            self.leave()

    def _remove_directories(self) -> None:
        """Remove what a killed guard left, unless others hold the lock or took the name since."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._lock).st_ino == (self.directory / _guard.LOCK).stat().st_ino:
                for directory in reversed(self.directories):  # the one with our lock at last
                    shutil.rmtree(directory, ignore_errors=True)

    def _send(self, command: str, **fields: Any) -> int:
        self._sent += 1
        message = json.dumps({"id": self._sent, "command": command, **fields}).encode() + b"\n"
        try:
            self._control.sendall(message)
        except OSError as error:
            raise ServerError("the guard process is gone, and its server with it") from error
        return self._sent

    def _receive(self, number: int, *, timeout: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                reply: dict[str, Any] = json.loads(line)
                if reply.pop("id") != number:  # its asker was cancelled
                    continue
                if "error" in reply:
                    raise ServerError(": ".join(filter(None, (reply.get("file"), reply["error"]))))
                return reply
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            try:
                data = self._control.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise ServerError("the guard process is gone, and its server with it")
            self._received += data


def hold(directory: Path) -> int:
    """Take the shared lock on a guard's directory; returns its file descriptor.

    A record lock belongs to this process alone: children forked without exec, which may
    outlive us, do not keep the server running.

    Raises:
        FileNotFoundError: The directory is gone, or going.
    """
    path = directory / _guard.LOCK
    lock = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino != path.stat().st_ino:
            raise FileNotFoundError(path)
    except BlockingIOError:
        os.close(lock)
        raise FileNotFoundError(path) from None
    except BaseException:
        os.close(lock)
        raise
    return lock
