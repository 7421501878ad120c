"""The one door through which every package reports what it does."""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar

from common.context import _observers
from common.context._context import current, restore
from common.context._ids import valid_id

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token
    from types import TracebackType
    from typing import Literal, Self, TypeAlias

    from common.context._context import Context

    Outcome: TypeAlias = Literal["ok", "error", "cancelled"]

# The names follow OpenTelemetry's semantic conventions where these have one.
KINDS: Mapping[str, str] = {
    "auth": "a token, key or certificate is checked",
    "cache": "a cache is read or written",
    "db": "a database runs a command",
    "http.client": "a request is sent and its answer awaited",
    "http.server": "a request is answered",
    "internal": "anything else worth counting, within this process",
    "lock": "a lock is taken, held or released",
    "messaging.process": "a message is handled",
    "messaging.publish": "messages are sent",
    "messaging.receive": "messages are fetched",
    "messaging.settle": "a message is acknowledged, handed back or dead-lettered",
    "object_store": "files or blobs are read or written",
    "rate_limit": "a rate limit is asked",
    "rpc": "another process is called by other means than HTTP",
}


class Operation:
    """One thing that was done; made by `operation`, used in a ``with`` statement once.

    Attributes:
        kind: One of `KINDS`.
        name: What was done, from a bounded set: a route template, a command, a subject.
        attributes: Facts about it, named as OpenTelemetry's semantic conventions do.
        context: The context at its start.
        parent: The operation within which it started, if that one is observed.
        start_time: Seconds since the epoch at its start.
        duration: Seconds it took, on the monotonic clock; ``None`` until it ended.
        outcome: ``"ok"``, ``"error"`` or ``"cancelled"``; ``None`` until it ended.
        error: The exception that ended it, while observers are told; afterwards ``None``.
        error_type: Name of the exception's class, with its module unless built in.
        error_code: The exception's ``code``, if it has one that is a `valid_id`.
        recording: Whether anybody is told about it; if not, do not compute attributes for it.
    """

    __slots__ = (
        "_failed",
        "_observers",
        "_started",
        "_token",
        "attributes",
        "context",
        "duration",
        "error",
        "error_code",
        "error_type",
        "kind",
        "name",
        "outcome",
        "parent",
        "start_time",
    )

    recording = True

    def __init__(self, kind: str, name: str, attributes: dict[str, object]) -> None:
        self.kind = kind
        self.name = name
        self.attributes = attributes
        self.context: Context = current()
        self.parent: Operation | None = None
        self.start_time = 0.0
        self.duration: float | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.error_type: str | None = None
        self.error_code: str | None = None
        self._failed: Outcome | None = None
        self._started = 0.0
        self._observers: tuple[_observers.Observation, ...] = ()
        self._token: Token[Operation | None] | None = None

    def set(self, attributes: Mapping[str, object] | None = None, /, **more: object) -> None:
        """Set attributes; the mapping is for names with dots in them.

        Example:
            >>> with operation("http.client", "GET") as op:
            ...     op.set({"http.response.status_code": 200}, retries=1)
        """
        if attributes:
            self.attributes.update(attributes)
        self.attributes.update(more)

    def fail(self, code: str | None = None, *, error: BaseException | None = None) -> None:
        """Make it an error although the body raises nothing, as for a response with status 500.

        Args:
            code: Becomes ``error_code`` if it is a `valid_id`, since it becomes the label of a
                metric; anything else is ignored.
            error: The exception that was handled, if there was one.
        """
        self._failed = "error"
        self.error = error
        self.error_code = _bounded(code)

    def cancel(self) -> None:
        """Make it neither success nor failure, as when the client went away."""
        self._failed = "cancelled"

    def __enter__(self) -> Self:
        if self._token is not None or self.duration is not None:
            raise RuntimeError("this operation was used already: call operation() for each")
        self.context = current()
        self.parent = _running.get()
        # Meanwhile nothing is observed: an observer that reports operations of its own
        # would be told about these without end.
        token = _running.set(_unobserved)
        try:
            self._observers = _observers.notify_start(self)
        except BaseException:  # an interrupt: the body will not run
            _running.reset(token)
            raise
        _running.set(self)
        self._token = token
        self.start_time = time.time()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.duration = time.perf_counter() - self._started
        if error is not None:
            self.outcome = "cancelled" if _is_cancellation(error) else "error"
            self.error, self.error_code = error, None
        else:
            self.outcome = self._failed or "ok"
        if self.error is not None:
            self.error_type = _type_name(type(self.error))
            self.error_code = self.error_code or _code_of(self.error)
        meanwhile = _running.set(_unobserved)
        try:
            _observers.notify_end(self, self._observers)
        finally:
            # The exception's traceback leads back to this object: a cycle, if it were kept.
            self.error = None
            outermost, self._token = self._token or meanwhile, None
            try:
                _running.reset(outermost)  # undoes what was set since, too
            except ValueError:
                _running.reset(meanwhile)
                restore(_running, outermost, self, None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"Operation({self.kind!r}, {self.name!r}, outcome={self.outcome!r})"


class _Unobserved(Operation):
    """Stands in for every operation nobody is told about; it keeps nothing."""

    __slots__ = ()

    recording = False

    @property
    def attributes(self) -> dict[str, object]:
        return {}

    @attributes.setter
    def attributes(self, attributes: dict[str, object]) -> None:
        pass

    @property
    def context(self) -> Context:
        return current()

    @context.setter
    def context(self, context: Context) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass

    def set(self, attributes: Mapping[str, object] | None = None, /, **more: object) -> None:
        pass

    def fail(self, code: str | None = None, *, error: BaseException | None = None) -> None:
        pass

    def cancel(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


_unobserved = _Unobserved("internal", "unobserved", {})
_running: ContextVar[Operation | None] = ContextVar("common.context.operation", default=None)


def operation(
    kind: str, name: str, attributes: Mapping[str, object] | None = None, /, **more: object
) -> Operation:
    """Report the body of a ``with`` or ``async with`` statement to all observers.

    The outcome is ``"error"`` when the body raises, and ``"cancelled"`` when it is cancelled,
    interrupted or closed, which is neither success nor failure. Exceptions go through.

    Args:
        kind: One of `KINDS`.
        name: What is done, from a bounded set, since it becomes the label of a metric: a route
            template and not a path, a command and not its arguments.
        attributes: Facts about it, named as OpenTelemetry's semantic conventions do; the
            mapping is for names with dots in them.
        **more: Further attributes.

    Returns:
        The operation. Without an observer it is one shared object that keeps nothing
        (``recording`` is ``False``), which makes it cost next to nothing.

    Raises:
        ValueError: If the kind is unknown.

    Example:
        >>> from common.context import observe
        >>> class Printer:
        ...     def on_start(self, op):
        ...         pass
        ...
        ...     def on_end(self, op):
        ...         print(op.kind, op.name, op.outcome, op.attributes)
        >>> with observe(Printer()), operation("cache", "get", hit=True) as op:
        ...     op.set(tier="local")
        cache get ok {'hit': True, 'tier': 'local'}
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of operation {kind!r}: use one of {', '.join(KINDS)}")
    if not _observers.active or _running.get() is _unobserved:
        return _unobserved
    if attributes:
        more = {**attributes, **more}
    return Operation(kind, name, more)


def current_operation() -> Operation | None:
    """Return the innermost operation under way that is observed, if there is one."""
    running = _running.get()
    return None if running is _unobserved else running


def _is_cancellation(error: BaseException) -> bool:
    """Whether the body was told to stop, rather than failing by itself."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_cancellation, error.exceptions))
    if not isinstance(error, Exception):
        return True  # asyncio's and trio's cancellation, GeneratorExit, interrupts
    module = sys.modules.get("concurrent.futures._base")
    return module is not None and isinstance(error, module.CancelledError)


def _type_name(cls: type) -> str:
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


def _code_of(error: BaseException) -> str | None:
    try:
        code = getattr(error, "code", None)
    except Exception:  # noqa: BLE001 - a foreign property may raise anything
        return None
    return _bounded(code)


def _bounded(code: object) -> str | None:
    # It becomes the label of a metric.
    return code if isinstance(code, str) and valid_id(code) else None
