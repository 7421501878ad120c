"""The context in the headers of HTTP requests and of messages."""

from __future__ import annotations

from collections.abc import Mapping

from common.context._baggage import format_baggage, parse_baggage
from common.context._context import NOTHING, Context, current
from common.context._ids import new_id, valid_id
from common.context._trace import new_trace, parse_trace

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol, TypeAlias, TypeVar

    class WritableHeaders(Protocol):
        """As much of a mutable mapping as writing needs; Starlette's headers have no more."""

        def __iter__(self) -> Iterator[str]: ...
        def __contains__(self, name: object, /) -> bool: ...
        def __setitem__(self, name: str, value: str, /) -> None: ...
        def __delitem__(self, name: str, /) -> None: ...

    Headers: TypeAlias = Mapping[str, Any] | Mapping[bytes, Any] | Iterable[tuple[Any, Any]]
    H = TypeVar("H", bound=WritableHeaders | list[Any])

REQUEST_ID = "X-Request-ID"
CORRELATION_ID = "X-Correlation-ID"
SERVICE_NAME = "X-Service-Name"
TRACE_ID = "X-Trace-ID"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
_READ = frozenset({"x-request-id", "x-correlation-id", "traceparent", "tracestate", "baggage"})


def inject(headers: H, *, context: Context | None = None, raw: bool | None = None) -> H:
    """Write the context into the headers of a request or message, in place.

    Written are ``X-Request-ID``, ``X-Correlation-ID``, ``X-Service-Name`` (this service),
    ``X-Trace-ID`` (32 hexadecimal digits), ``traceparent``, ``tracestate`` and ``baggage``, as
    far as the context has them; older values of the same names go, whatever their case. Ids
    and the service's name are left out when they break the rule of `valid_id`. Tenant, user and
    deadline are not written: whoever receives them must be able to believe them, which headers
    alone cannot give.

    Args:
        headers: A mapping (Starlette's ``MutableHeaders`` too), or a list of pairs as ASGI
            (bytes, bytes), httpx (str, str) and Kafka clients (str, bytes) use. A list's first
            pair tells which kind it is.
        context: The context to write, by default the current one.
        raw: For an empty list: whether to write bytes, as ASGI wants.

    Returns:
        The same headers.

    Example:
        >>> from common.context import Context
        >>> inject({"x-request-id": "old"}, context=Context(request_id="r-1"))
        {'X-Request-ID': 'r-1'}
    """
    values = _values(current() if context is None else context)
    # A tracestate without the traceparent it belongs to would lead astray.
    stale = {name.lower() for name in values}
    if TRACEPARENT in stale:
        stale.add(TRACESTATE)
    if isinstance(headers, list):
        _write_pairs(headers, values, stale, raw=raw)
    else:
        _write(headers, values, stale)
    return headers


def extract(headers: Headers) -> Context:
    """Return the context of an incoming request or message; nothing is ever raised.

    Ids that are missing, repeated or malformed (see `valid_id`) are replaced by new ones; a
    missing correlation id becomes the request id. A bad or missing ``traceparent`` starts a
    new trace. The trace is the caller's: take ``trace.child()`` for a span of your own.

    ``X-Service-Name`` and ``X-Trace-ID`` are not read: the first would be the caller's word
    only, the second is part of ``traceparent``. All else is left empty, the deadline above all,
    so that ``bind(extract(headers))`` starts afresh. Who trusts a deadline in some header puts
    it on top: ``with bind(extract(headers)), deadline(seconds): ...``.

    Args:
        headers: A mapping (of text, or lists of it), or pairs of text or bytes; names in any
            case.

    Example:
        >>> context = extract([(b"x-request-id", b"r-1"), (b"baggage", b"plan=gold")])
        >>> context.request_id, context.correlation_id, dict(context.baggage)
        ('r-1', 'r-1', {'plan': 'gold'})
    """
    found: dict[str, list[str]] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        text = name if isinstance(name, str) else _text(name)
        lowered = text.lower()
        if lowered in _READ:
            values = value if isinstance(value, list | tuple) else (value,)
            found.setdefault(lowered, []).extend(
                _text(each) for each in values if isinstance(each, str | bytes | bytearray)
            )
    baggage = found.get(BAGGAGE)
    request_id = _single_id(found.get("x-request-id")) or new_id()
    return Context(
        request_id=request_id,
        correlation_id=_single_id(found.get("x-correlation-id")) or request_id,
        trace=parse_trace(found.get(TRACEPARENT, ()), found.get(TRACESTATE, ())) or new_trace(),
        baggage=parse_baggage(baggage) if baggage else NOTHING,
    )


def _values(context: Context) -> dict[str, str]:
    trace = context.trace
    values = {
        REQUEST_ID: _checked(context.request_id),
        CORRELATION_ID: _checked(context.correlation_id),
        SERVICE_NAME: _checked(context.service),
        TRACE_ID: trace and trace.trace_id,
        TRACEPARENT: trace and trace.traceparent,
        TRACESTATE: trace and trace.tracestate_header,
        BAGGAGE: format_baggage(context.baggage) if context.baggage else None,
    }
    return {name: value for name, value in values.items() if value}


def _checked(value: str | None) -> str | None:
    # What the application sets might hold a line break; it must not become a second header.
    return value if valid_id(value) else None


def _write(headers: WritableHeaders, values: dict[str, str], stale: set[str]) -> None:
    for name in {name for name in headers if _text(name).lower() in stale}:
        if name in headers:  # in a multidict, the first deletion took all
            del headers[name]
    for name, value in values.items():
        headers[name] = value


def _write_pairs(
    headers: list[Any], values: dict[str, str], stale: set[str], *, raw: bool | None
) -> None:
    raw_name = raw_value = bool(raw)
    if headers and raw is None:
        raw_name, raw_value = (isinstance(part, bytes) for part in headers[0])
    headers[:] = [pair for pair in headers if _text(pair[0]).lower() not in stale]
    for name, value in values.items():
        # ASGI wants lowercase names.
        written = name.lower().encode() if raw_name else name
        headers.append((written, value.encode() if raw_value else value))


def _single_id(values: list[str] | None) -> str | None:
    if not values or len(values) > 1:
        return None
    value = values[0].strip(" \t")
    return value if valid_id(value) else None


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("latin-1")
    return ""
