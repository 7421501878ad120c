"""A fresh PostgreSQL database for each test, copied from a template that is prepared once."""

import contextlib
import hashlib
import inspect
import re
import secrets
import subprocess
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit, urlunsplit

from common.testing._background import run
from common.testing._errors import ServerError
from common.testing._psql import psql, psql_command

Prepare = Callable[[str], Awaitable[object]]
Template = str | Path | Prepare | None

PREFIX = "ct"
SESSION_LOCK = 7_483_001  # first key of our advisory locks: who uses a session's databases
TEMPLATE_LOCK = 7_483_002  # … and who prepares its templates


class Psql:
    """A psql that stays connected; one statement at a time, blocking."""

    def __init__(self, url: str) -> None:
        command, environment = psql_command(url)
        command.remove("ON_ERROR_STOP=1")
        command.remove("-v")
        environment["PGOPTIONS"] = "-c client_min_messages=error"
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        self._input = cast("IO[str]", self._process.stdin)
        self._output = cast("IO[str]", self._process.stdout)
        self._marker = secrets.token_hex(8)

    def run(self, statement: str) -> str:
        """Run a statement and return its rows.

        Raises:
            ServerError: PostgreSQL's message, or the connection is lost.
        """
        lines: list[str] = []
        state = ""
        try:
            self._input.write(f"{statement};\n\\echo {self._marker} :SQLSTATE\n")
            self._input.flush()
            for line in self._output:
                if line.startswith(self._marker):
                    state = line.split()[1]
                    break
                lines.append(line.rstrip("\n"))
        except OSError as error:
            lines.append(str(error))
        if state == "00000":
            return "\n".join(lines)
        reason = " ".join(filter(None, lines)) or "the connection to PostgreSQL is lost"
        raise ServerError(f"PostgreSQL: {reason}")

    def close(self) -> None:
        """Disconnect. Idempotent."""
        with contextlib.suppress(OSError):  # it has ended before reading all
            self._input.close()
        self._process.wait()
        self._output.close()


class Databases:
    """Creates and drops databases on a server that other processes of the session use, too.

    While a test runs, a thread drops the database of the last one and creates that of the
    next. It works strictly in order, so at most one database waits for its end.

    Args:
        url: The server's administrator.
        session: Hexadecimal key that all processes of the session have in common.
        external: The server outlives us, so leave it as we found it.
    """

    def __init__(self, url: str, session: str, *, external: bool = False) -> None:
        self._url = url
        self._session = session
        self._external = external
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="common-testing")
        self._psql: Psql | None = None
        self._templates: dict[str, str | Exception] = {}
        self._next: dict[str, Future[str]] = {}
        # Copying files beats writing them to the log, and nobody replicates this server.
        self._options = "" if external else " STRATEGY file_copy"

    def acquire(self, template: Template) -> str:
        """URL of a fresh copy of the template.

        Raises:
            ServerError: The server cannot be reached, or refuses.
        """
        source = self._template(template)
        ready = self._next.pop(source, None) or self._thread.submit(self._create, source)
        name = ready.result()
        self._next[source] = self._thread.submit(self._create, source)
        return self._database_url(name)

    def release(self, url: str) -> None:
        """Drop a database, whoever is still connected to it; does not wait."""
        name = urlsplit(url).path.strip("/")
        self._thread.submit(self._drop, name)

    def close(self) -> None:
        """Finish all work; on a server that outlives us, the last process removes everything."""
        for ready in self._next.values():
            ready.cancel()
        self._thread.submit(self._finish).result()
        self._thread.shutdown()

    def _template(self, template: Template) -> str:
        if template is None:
            return "template1"
        key = _fingerprint(template)
        if key not in self._templates:
            try:
                self._templates[key] = self._prepare(
                    template, f"{PREFIX}_{self._session}_template_{key}"
                )
            except Exception as error:  # noqa: BLE001 - raised below, for this test and the next
                self._templates[key] = error
        prepared = self._templates[key]
        if isinstance(prepared, Exception):
            raise prepared
        return prepared

    def _prepare(self, template: str | Path | Prepare, name: str) -> str:
        lock = f"({TEMPLATE_LOCK}, {_number(_digest(name))})"
        self._run(f"SELECT pg_advisory_lock{lock}")
        try:
            if self._run(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):  # noqa: S608
                return name
            # It gets its name when it is ready; a half-prepared one is never seen.
            draft = self._thread.submit(self._create, "template1").result()
            try:
                url = self._database_url(draft)
                if callable(template):
                    run(_call(template, url))
                else:
                    psql(url, template.read_text() if isinstance(template, Path) else template)
                # Copying and renaming fail while anybody is connected, such as a forgotten pool.
                self._run(f'ALTER DATABASE "{draft}" ALLOW_CONNECTIONS false')
                self._run(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "  # noqa: S608
                    f"WHERE datname = '{draft}'"
                )
                self._run(f'ALTER DATABASE "{draft}" RENAME TO "{name}"')
            except BaseException:
                self._thread.submit(self._drop, draft)
                raise
            return name
        finally:
            self._run(f"SELECT pg_advisory_unlock{lock}")

    def _run(self, statement: str) -> str:
        return self._thread.submit(lambda: self._connection.run(statement)).result()

    # All below runs in the thread.

    @property
    def _connection(self) -> Psql:
        if self._psql is None:
            fresh = Psql(self._url)
            try:
                fresh.run("SELECT 1")
            except ServerError:
                fresh.close()
                raise
            self._psql = fresh
            if self._external:
                # Crashed sessions clean nothing up; their lock is free then.
                self._sweep(fresh)
                fresh.run(
                    f"SELECT pg_advisory_lock_shared({SESSION_LOCK}, {_number(self._session)})"
                )
        return self._psql

    def _create(self, source: str) -> str:
        name = f"{PREFIX}_{self._session}_{secrets.token_hex(5)}"
        self._connection.run(f'CREATE DATABASE "{name}" TEMPLATE "{source}"{self._options}')
        return name

    def _drop(self, name: str) -> None:
        # Nobody waits for this. If it fails, the session's end or the next one's start tries again.
        with contextlib.suppress(ServerError):
            self._connection.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _finish(self) -> None:
        if self._psql is None:
            return
        try:
            if self._external:
                lock = f"({SESSION_LOCK}, {_number(self._session)})"
                for ready in self._next.values():
                    if not ready.cancelled() and ready.done() and ready.exception() is None:
                        self._drop(ready.result())
                self._psql.run(f"SELECT pg_advisory_unlock_shared{lock}")
                self._sweep(self._psql)
        except ServerError:  # it is gone, so there is nothing to tidy
            return
        finally:
            self._psql.close()
            self._psql = None

    def _sweep(self, connection: Psql) -> None:
        """Drop the databases of all sessions that nobody takes part in any more."""
        pattern = f"^{PREFIX}_[0-9a-f]{{16}}_(template_)?[0-9a-f]+$"
        names = connection.run(
            f"SELECT datname FROM pg_database WHERE datname ~ '{pattern}'"  # noqa: S608
        ).splitlines()
        for session in sorted({name.split("_")[1] for name in names}):
            lock = f"({SESSION_LOCK}, {_number(session)})"
            if connection.run(f"SELECT pg_try_advisory_lock{lock}") != "t":
                continue
            for name in names:
                if name.split("_")[1] == session:
                    self._drop(name)
            connection.run(f"SELECT pg_advisory_unlock{lock}")

    def _database_url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))


async def _call(prepare: Prepare, url: str) -> None:
    await prepare(url)


def _fingerprint(template: str | Path | Prepare) -> str:
    """The same in every process of the session, for the same template."""
    if isinstance(template, Path):
        return _digest(template.read_text())
    if isinstance(template, str):
        return _digest(template)
    code = getattr(inspect.unwrap(template), "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
    kind = type(template)
    name = getattr(template, "__qualname__", kind.__qualname__)
    return _digest(f"{getattr(template, '__module__', '')}.{name}:{place}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _number(key: str) -> int:
    """A hexadecimal key as PostgreSQL's integer."""
    return int(re.sub("[^0-9a-f]", "", key)[:7] or "0", 16)
