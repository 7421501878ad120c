"""Whether this process lives, whether it is ready for work, and its way out."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from common.api._causes import causes_of
from common.api._checks import is_async, number
from common.api._signals import SignalHold
from common.context import bind, valid_id
from common.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    Status = Literal["ok", "failed", "timeout"]

logger = logging.getLogger("common.api")


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must work before this process takes requests.

    Attributes:
        name: For the report: a `common.context.valid_id`.
        probe: Coroutine function without arguments. Healthy is what returns nothing, ``True``,
            or an object whose ``ok`` is true; anything else, and any exception, is not.
        timeout: Seconds that it may take.
        critical: Whether this process is not ready without it; otherwise it is ``degraded``.

    Raises:
        ValueError: If the name or the timeout cannot be.
        TypeError: If the probe is no coroutine function.
    """

    name: str
    probe: Callable[[], Awaitable[Any]]
    timeout: float = 1.0
    critical: bool = True

    def __post_init__(self) -> None:
        if not valid_id(self.name):
            raise ValueError(f"Check({self.name!r}): name it with letters, digits, '.', '_', '-'")
        number(f"Check({self.name!r}): timeout", self.timeout, above=0)
        if not is_async(self.probe):
            raise TypeError(
                f"Check({self.name!r}): give a coroutine function; wrap a blocking one in "
                "asyncio.to_thread"
            )


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went.

    Attributes:
        status: ``"ok"``, ``"failed"`` or ``"timeout"``. Why stands in the log only.
        critical: As the check says.
        duration: Seconds it took.
    """

    status: Status
    critical: bool
    duration: float


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a check is not ok, for the log; with the error where only its traceback can tell."""

    why: str
    unexpected: Exception | None = None


class Health:
    """The readiness of one process.

    The checks run concurrently, each for no longer than its timeout, and at most once in
    ``cache`` seconds, however many ask. One that is still running, because it does not heed
    its cancellation, is reported as timed out and not started again. The log says why a check
    failed when it begins to fail, and not again until it has changed.

    Args:
        ready: The checks.
        cache: Seconds for which a result holds.
        drain: Seconds between "not ready any more" and the end: as long as load balancers take
            to notice, such as Kubernetes' probe period times its failure threshold.

    Raises:
        ValueError: If two checks share a name, or a number is none or negative.
        TypeError: If a check is none.

    Example:
        >>> async def ping() -> None: ...
        >>> Health(ready=[Check("db", ping, timeout=0.5)], drain=5).draining
        False
    """

    def __init__(
        self, *, ready: Iterable[Check] = (), cache: float = 1.0, drain: float = 0.0
    ) -> None:
        self.checks = tuple(ready)
        for check in self.checks:
            given: object = check
            if not isinstance(given, Check):
                raise TypeError(f"ready=[{given!r}]: give Check('name', coroutine_function)")
        names = [check.name for check in self.checks]
        if len(set(names)) != len(names):
            raise ValueError(f"two checks share a name: {', '.join(sorted(names))}")
        number("cache", cache)
        number("drain", drain)
        self.draining = False
        self._cache = cache
        self._drain = drain
        self._known: tuple[float, dict[str, CheckResult]] | None = None
        self._running: asyncio.Task[dict[str, CheckResult]] | None = None
        self._stuck: dict[str, asyncio.Task[_Trouble | None]] = {}
        self._logged: dict[str, Status] = {}

    async def results(self) -> dict[str, CheckResult]:
        """Return how the checks went, by name; from the cache if it is young enough."""
        if self._known is not None and time.monotonic() - self._known[0] < self._cache:
            return self._known[1]
        running = self._running
        loop = asyncio.get_running_loop()
        if running is None or running.done() or running.get_loop() is not loop:
            # In a task of its own and without the request's deadline: it outlives the one
            # who asked first, if that one goes away.
            with bind(deadline=None):
                running = self._running = loop.create_task(self._run())
        return await asyncio.shield(running)

    async def _run(self) -> dict[str, CheckResult]:
        found = await asyncio.gather(*map(self._check, self.checks))
        results = dict(zip((check.name for check in self.checks), found, strict=True))
        self._known = (time.monotonic(), results)
        return results

    async def _check(self, check: Check) -> CheckResult:
        started = time.perf_counter()
        stuck = self._stuck.get(check.name)
        loop = asyncio.get_running_loop()
        if stuck is not None and not stuck.done() and stuck.get_loop() is loop:
            return CheckResult("timeout", check.critical, 0.0)
        task = asyncio.ensure_future(_probe(check))
        try:
            # Not asyncio.timeout(): a probe that swallows its cancellation would hold all up.
            done, _ = await asyncio.wait({task}, timeout=check.timeout)
        except BaseException:
            task.cancel()
            raise
        if not done:
            task.cancel()
            self._stuck[check.name] = task
            trouble: _Trouble | None = _Trouble(f"it took longer than {check.timeout:g} s")
        elif task.cancelled():  # a probe may also end by one that nobody here asked for
            trouble = _Trouble("what it waited for was cancelled")
        else:
            trouble = task.result()
        status: Status = "timeout" if not done else "failed" if trouble else "ok"
        self._log(check, status, trouble)
        return CheckResult(status, check.critical, time.perf_counter() - started)

    def _log(self, check: Check, status: Status, trouble: _Trouble | None) -> None:
        before = self._logged.get(check.name, "ok")
        self._logged[check.name] = status
        if status == before:
            return
        if trouble is None:
            logger.info("check %s is ok again", check.name)
        else:
            logger.warning(
                "check %s: %s: %s", check.name, status, trouble.why, exc_info=trouble.unexpected
            )

    def start_draining(self) -> None:
        """Turn readiness into 503, for good; requests are served as before."""
        if not self.draining:
            self.draining = True
            logger.info("draining: not ready any more")

    async def drain(self) -> None:
        """Turn readiness into 503, then wait as long as load balancers take to notice."""
        self.start_draining()
        await asyncio.sleep(self._drain)

    @contextmanager
    def drain_on(self, *signals: signal.Signals) -> Generator[None]:
        """Let the server have a signal only after the drain; for the lifespan.

        The first signal makes readiness 503 and starts the wait; the handler that was there
        before (uvicorn's, which stops accepting) is called after it, or at a second signal.
        Nothing happens outside of the main thread, where Python takes no signal handlers, and
        without a drain time.

        Args:
            *signals: By default ``SIGTERM``, which is what process managers send.
        """
        if self._drain <= 0 or threading.current_thread() is not threading.main_thread():
            yield
            return
        held = SignalHold(signals or (signal.SIGTERM,), self._drain, self.start_draining)
        held.take()
        try:
            yield
        finally:
            held.give_back()

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Return whether this process is ready, and the report of ``/readyz``."""
        results = await self.results()
        failed = [result for result in results.values() if result.status != "ok"]
        ready = not self.draining and not any(result.critical for result in failed)
        status = "draining" if self.draining else "unavailable" if not ready else "ok"
        if ready and failed:
            status = "degraded"
        return ready, {"status": status, "checks": shown(results)}

    async def report(self, service: str | None, version: str | None) -> tuple[bool, dict[str, Any]]:
        """Return whether this process is ready, and the report of ``/health``."""
        ready, report = await self.readiness()
        words = {"ok": "healthy", "degraded": "degraded"}
        return ready, {
            "status": words.get(report["status"], "unhealthy"),
            "service": service,
            "version": version,
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "checks": report["checks"],
        }


def shown(results: dict[str, CheckResult]) -> dict[str, Any]:
    """Return results for a report; nothing of why one failed, which may be internal."""
    return {
        name: {
            "status": result.status,
            "critical": result.critical,
            "duration_ms": round(result.duration * 1000, 1),
        }
        for name, result in results.items()
    }


async def _probe(check: Check) -> _Trouble | None:
    try:
        found = await check.probe()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the check's result
        expected = isinstance(error, AppError | OSError)  # of which TimeoutError is one
        return _Trouble(causes_of(error), None if expected else error)
    if found is None or found is True or getattr(found, "ok", None) is True:
        return None
    if found is False:
        return _Trouble("it returned False")
    healthy = "healthy is None, True, or an object whose ok is True"
    return _Trouble(f"it returned a {type(found).__name__}; {healthy}")
