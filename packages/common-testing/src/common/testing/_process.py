"""Processes of a test: any command, with faults, and nothing left behind."""

import asyncio
import inspect
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.testing._client import GuardClient
from common.testing._errors import ServerError
from common.testing._places import base_directory
from common.testing._ports import check_port, port_error

TAIL_LINES = 15  # of the log, in an error message
TAIL_BYTES = 16_384
POLL = 0.01  # seconds
END_MARGIN = 15.0  # seconds a guard may need beyond the grace: killing, removing files


class ManagedProcess:
    r"""A command with a directory, a log and a guard that ends it however this process ends.

    Use it as an async context manager, or call `start` and `close`. It is not tied to an
    event loop. Its standard input is empty; what it prints goes to its log.

    Args:
        command: Program and arguments.
        env: Variables added to this process's environment.
        cwd: Folder to run in; default: this process's.
        log: File that the output is appended to; default: ``process.log`` in `directory`.
        ready: When `start` may return: a port of 127.0.0.1 that accepts connections, a text
            or pattern in the output, or a function (sync or async) that returns true.
            Default: as soon as it runs.
        ready_timeout: Seconds until `start` gives up.
        grace: Seconds between SIGTERM and SIGKILL when it is stopped.
        name: For error messages; default: the program's name.

    >>> import sys
    >>> async def main():
    ...     async with ManagedProcess(sys.executable, "-c", "print('hello')") as process:
    ...         return await process.wait(10), process.output()
    >>> asyncio.run(main())
    (0, 'hello\n')
    """

    _stop_signal: int = signal.SIGTERM
    _discard_signal: int | None = None  # for the end, when data no longer matter
    _memory = False

    def __init__(
        self,
        *command: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | None = None,
        ready: int | str | re.Pattern[str] | Callable[[], bool | Awaitable[bool]] | None = None,
        ready_timeout: float = 30.0,
        grace: float = 10.0,
        name: str | None = None,
    ) -> None:
        self._command = [os.fspath(part) for part in command]
        self._env = dict(env or {})
        self._cwd = Path(cwd) if cwd is not None else None
        self._log = Path(log).absolute() if log is not None else None
        self._ready = ready
        self._ready_timeout = ready_timeout
        self._grace = grace
        self.name = name or (Path(self._command[0]).name if command else type(self).__name__)
        self._guard: GuardClient | None = None
        self._log_start = 0
        self._pid = 0
        self._shared_name = ""
        self._shared_base: Path | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} pid={self._pid}>"

    # Life

    async def start(self) -> None:
        """Start it and wait until it is ready; after `stop` or `kill` with data and ports kept.

        Raises:
            ServerError: It cannot be run, ends early or is not ready in time; with its last output.
        """
        first = self._guard is None
        try:
            if first and not await self._launch():
                raise ServerError(f"{self.name}: its directory exists already")
            await self._run()
        except BaseException:
            if first:
                await self.close()
            raise

    async def stop(self, grace: float | None = None) -> int:
        """Ask it to end, kill what is left after `grace` seconds, and return its return code.

        Its directory and ports remain, for another `start`.
        """
        if self.running:
            self.send_signal(self._stop_signal)
            self.resume()
            try:
                await self.wait(self._grace if grace is None else grace)
            except TimeoutError:
                self.kill()
        code = self.returncode
        if code is None:
            raise ServerError(f"{self.name} was never started")
        return code

    async def restart(self) -> None:
        """Stop it if it runs, and start it again."""
        if self._guard is not None and self.running:
            await self.stop()
        await self.start()

    async def wait(self, timeout: float | None = None) -> int:  # noqa: ASYNC109
        """Wait until it ends by itself, and return its return code.

        Raises:
            TimeoutError: It still runs after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while (code := self.returncode) is None:  # noqa: ASYNC110
                await asyncio.sleep(POLL)
        return code

    async def close(self) -> None:
        """Stop it and remove its directory. Idempotent."""
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.end(self._grace + END_MARGIN)

    # Faults

    def kill(self) -> None:
        """SIGKILL to the process and all its descendants; all are dead when this returns."""
        self._ask("kill")

    def pause(self) -> None:
        """SIGSTOP to the process and all its descendants; all stand still when this returns."""
        self._ask("pause")

    def resume(self) -> None:
        """SIGCONT to the process and all its descendants."""
        self._ask("resume")

    def send_signal(self, number: int) -> None:
        """Send a signal to the main process.

        Raises:
            ServerError: It is not running.
        """
        self._ask("signal", number=int(number))

    # What is known

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the main process is alive; a paused one is."""
        return self._guard is not None and bool(self._ask("status")["running"])

    @property
    def returncode(self) -> int | None:
        """How the main process ended: its code, or minus the signal; None while it runs."""
        code: int | None = self._ask("status")["returncode"]
        return code

    @property
    def directory(self) -> Path:
        """Its own directory, removed at the end; use it for files that should go with it."""
        return self._client.directory

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self._log or self.directory / "process.log"

    def output(self) -> str:
        """All that it printed, over all starts."""
        try:
            return self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    # For the servers built on this

    @property
    def _client(self) -> GuardClient:
        if self._guard is None:
            raise ServerError(f"{self.name} is not started: use 'async with', or call start()")
        return self._guard

    def _ask(self, command: str, **fields: Any) -> dict[str, Any]:
        try:
            return self._client.ask(command, **fields)
        except ServerError as error:
            raise ServerError(f"{self.name}: {error}") from error

    def _bases(self) -> list[Path]:
        return [base_directory(memory=self._memory)]

    def _mode(self) -> int:
        return 0o700

    async def _launch(self) -> bool:
        """Start the guard; False when another process made the directory that we share."""
        bases = self._bases()
        if self._shared_base is not None:
            bases[0] = self._shared_base
        guard = await GuardClient.launch(bases, name=self._shared_name, mode=self._mode())
        self._guard = guard
        if guard is None:
            return False
        await self._prepare()
        return True

    async def _prepare(self) -> None:
        """Make files, reserve ports: once, before the first start."""

    def _arguments(self) -> list[str]:
        return self._command

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self._env}

    async def _run(self) -> None:
        await self._spawn(self._arguments())
        try:
            async with asyncio.timeout(self._ready_timeout):
                while not await self._check():
                    if not self.running:
                        code = self.returncode
                        raise ServerError(
                            f"{self.name} ended early, with return code {code}{self._tail()}"
                        )
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise ServerError(
                f"{self.name} was not ready after {self._ready_timeout:g} s: "
                f"see its log, or give it more time with ready_timeout{self._tail()}"
            ) from None

    async def _spawn(self, arguments: list[str], **fields: Any) -> None:
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        reply = self._ask(
            "start",
            argv=arguments,
            env=self._environment(),
            cwd=str(self._cwd or Path.cwd()),
            log=str(self.log),
            **{
                "stop_signal": int(self._discard_signal or self._stop_signal),
                "grace": self._grace,
                **fields,
            },
        )
        self._pid = reply["pid"]

    async def _check(self) -> bool:
        match self._ready:
            case None:
                return True
            case int(port):
                return accepts(port)
            case str(text):
                return text in self._recent()
            case re.Pattern() as pattern:
                return pattern.search(self._recent()) is not None
            case function:
                answer = function()
                return bool(await answer if inspect.isawaitable(answer) else answer)

    def _reserve(self, port: int | None) -> int:
        check_port(port or 0)
        try:
            number: int = self._client.ask("reserve", port=port or 0)["port"]
        except ServerError as error:
            raise port_error(port or 0, str(error)) from error
        return number

    def _recent(self, limit: int | None = None) -> str:
        """What it printed since the last start."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(self._log_start if limit is None else max(self._log_start, size - limit))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _tail(self) -> str:
        lines = self._recent(TAIL_BYTES).splitlines()[-TAIL_LINES:]
        return "".join(f"\n    {line}" for line in lines) if lines else " (it printed nothing)"


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens on a local port."""
    try:
        with socket.create_connection((host, port), timeout=0.2):
            return True
    except OSError:
        return False


async def poll(
    check: Callable[[], Awaitable[Any]],
    *,
    timeout: float,  # noqa: ASYNC109
    interval: float = 0.02,
) -> Any:
    """Repeat an async check until its result is true, and return that.

    Raises:
        TimeoutError: It was not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := await check()):
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(interval)
    return result
