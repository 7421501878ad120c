"""What is known about the current unit of work."""

from __future__ import annotations

import time
from contextvars import ContextVar
from types import MappingProxyType

from common.context._baggage import valid_key
from common.context._frozen import Frozen, setters

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token
    from types import TracebackType
    from typing import Any, TypedDict, Unpack

    from common.context._trace import Trace

    class Changes(TypedDict, total=False):
        """The fields of `Context`."""

        request_id: str | None
        correlation_id: str | None
        trace: Trace | None
        tenant: str | None
        user: str | None
        service: str | None
        deadline: float | None
        baggage: Mapping[str, str]


NOTHING: Mapping[str, str] = MappingProxyType({})


def _read_only(baggage: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in baggage.items():
        if not valid_key(key):
            raise ValueError(
                f"baggage cannot hold the key {key!r}: use letters, digits and !#$%&'*+-.^_`|~"
            )
        if not isinstance(value, str):
            raise TypeError(f"the baggage's value of {key!r} is no string: convert it first")
    return MappingProxyType(dict(baggage))


class Context(Frozen):
    """What is known about the current unit of work (immutable).

    Attributes:
        request_id: This request or message.
        correlation_id: The whole chain of requests and messages it belongs to.
        trace: Trace and span of W3C Trace Context.
        tenant: Whose data it works on.
        user: On whose behalf it works.
        service: This service's name.
        deadline: Instant on the clock of `time.monotonic` (seconds); see
            `common.context.deadline`.
        baggage: Facts that travel along, read-only; they are sent to every service called, so
            nothing secret belongs here.

    Raises:
        ValueError: If a key of the baggage is not a token (RFC 7230, section 3.2.6).
    """

    __slots__ = (
        "baggage",
        "correlation_id",
        "deadline",
        "request_id",
        "service",
        "tenant",
        "trace",
        "user",
    )

    baggage: Mapping[str, str]
    correlation_id: str | None
    deadline: float | None
    request_id: str | None
    service: str | None
    tenant: str | None
    trace: Trace | None
    user: str | None

    def __init__(
        self,
        *,
        request_id: str | None = None,
        correlation_id: str | None = None,
        trace: Trace | None = None,
        tenant: str | None = None,
        user: str | None = None,
        service: str | None = None,
        deadline: float | None = None,
        baggage: Mapping[str, str] = NOTHING,
    ) -> None:
        _set_request_id(self, request_id)
        _set_correlation_id(self, correlation_id)
        _set_trace(self, trace)
        _set_tenant(self, tenant)
        _set_user(self, user)
        _set_service(self, service)
        _set_deadline(self, deadline)
        _set_baggage(self, baggage if baggage is NOTHING else _read_only(baggage))

    def replace(self, **changes: Unpack[Changes]) -> Context:
        """Return a copy with other values.

        Raises:
            TypeError: If a name is no field.
        """
        fields: Any = {
            "request_id": self.request_id,
            "correlation_id": self.correlation_id,
            "trace": self.trace,
            "tenant": self.tenant,
            "user": self.user,
            "service": self.service,
            "deadline": self.deadline,
            **changes,
        }
        try:
            changed = Context(**fields)
        except TypeError:
            for name in changes:
                if name not in _FIELDS:
                    raise TypeError(_unknown(name)) from None
            raise
        if "baggage" not in changes:
            _set_baggage(changed, self.baggage)
        return changed

    def _values(self) -> tuple[Any, ...]:
        return tuple(
            dict(self.baggage) if name == "baggage" else getattr(self, name) for name in _FIELDS
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has another monotonic clock: what travels is the time left.
        values = dict(zip(_FIELDS, self._values(), strict=True))
        left = None if self.deadline is None else self.deadline - time.monotonic()
        return _restore, (values, left)

    def __repr__(self) -> str:
        # The values of the baggage come from outside and may be anything.
        shown = [
            f"{name}={list(value) if name == 'baggage' else value!r}"
            for name in _FIELDS
            if (value := getattr(self, name))
        ]
        return f"Context({', '.join(shown)})"


_FIELDS = Context.__slots__
# For whoever makes one: it is frozen, and object.__setattr__ takes longer.
(
    _set_baggage,
    _set_correlation_id,
    _set_deadline,
    _set_request_id,
    _set_service,
    _set_tenant,
    _set_trace,
    _set_user,
) = setters(Context)
_EMPTY = Context()
_current: ContextVar[Context] = ContextVar("common.context", default=_EMPTY)


def current() -> Context:
    """Return the context of this task or thread; an empty one if nothing was bound."""
    return _current.get()


class bind:  # noqa: N801 - used like a function: a context manager
    """Change the context for the body of a ``with`` statement.

    Tasks and `asyncio.to_thread` calls started in the body see the change; what they bind
    themselves stays with them.

    Args:
        context: Replaces the whole context, as for a new request or message; by default the
            changes are made to the current one.
        **changes: Fields of `Context`.

    Raises:
        TypeError: If a name is no field of `Context`.

    Example:
        >>> with bind(tenant="acme"), bind(user="ada"):
        ...     current()
        Context(tenant='acme', user='ada')
        >>> current()
        Context()
    """

    __slots__ = ("_base", "_bound", "_changes", "_token")

    _bound: Context

    def __init__(self, context: Context | None = None, /, **changes: Unpack[Changes]) -> None:
        for name in changes:
            if name not in _FIELDS:
                raise TypeError(_unknown(name))
        self._base = context
        self._changes = changes
        self._token: Token[Context] | None = None

    def __enter__(self) -> Context:
        if self._token is not None:
            raise RuntimeError("this bind() is in use: call bind() again for each with statement")
        base = _current.get() if self._base is None else self._base
        self._bound = base.replace(**self._changes) if self._changes else base
        self._token = _current.set(self._bound)
        return self._bound

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            restore(_current, token, self._bound, _EMPTY)


def restore(variable: ContextVar[Any], token: Token[Any], bound: object, empty: object) -> None:
    """Undo ``variable.set(bound)``, also where the token's own context is gone.

    The end of an asynchronous generator that nobody closed, or of a dependency that a framework
    ends elsewhere, runs in another context than its beginning. There is nothing to undo then,
    unless that context was copied from the first while the value was bound.
    """
    try:
        variable.reset(token)
    except ValueError:
        if variable.get(None) is bound:
            old = token.old_value
            variable.set(empty if old is token.MISSING else old)


def _restore(values: dict[str, Any], left: float | None) -> Context:
    values["deadline"] = None if left is None else time.monotonic() + left
    return Context(**values)


def _unknown(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only needed for a mistake

    near = get_close_matches(name, _FIELDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_FIELDS)}"
    return f"the context has no field {name!r}: {hint}"
