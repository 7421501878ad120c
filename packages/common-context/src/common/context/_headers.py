"""The context in the headers of HTTP requests and of messages."""

from __future__ import annotations

from collections.abc import Mapping

from common.context._baggage import format_baggage, parse_baggage
from common.context._context import Context, current
from common.context._ids import new_id, valid_id
from common.context._trace import new_trace, parse_trace

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping
    from typing import Any, TypeAlias, TypeVar

    Headers: TypeAlias = Mapping[str, Any] | Mapping[bytes, Any] | Iterable[tuple[Any, Any]]
    H = TypeVar("H", bound=MutableMapping[str, str] | list[Any])

REQUEST_ID = "X-Request-ID"
CORRELATION_ID = "X-Correlation-ID"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
_READ = frozenset({"x-request-id", "x-correlation-id", "traceparent", "tracestate", "baggage"})


def inject(headers: H, *, context: Context | None = None, raw: bool | None = None) -> H:
    """Write the context into the headers of a request or message, in place.

    Written are ``X-Request-ID``, ``X-Correlation-ID``, ``traceparent``, ``tracestate`` and
    ``baggage``, as far as the context has them; older values of the same names go, whatever
    their case. Tenant, user, service and deadline are not written: whoever receives them must
    be able to believe them, which headers alone cannot give.

    Args:
        headers: A mapping, or a list of pairs as ASGI (bytes, bytes), httpx (str, str) and
            Kafka clients (str, bytes) use. A list's first pair tells which kind it is.
        context: The context to write, by default the current one.
        raw: For an empty list: whether to write bytes, as ASGI wants.

    Returns:
        The same headers.

    Example:
        >>> from common.context import Context
        >>> inject({"x-request-id": "old"}, context=Context(request_id="r-1"))
        {'X-Request-ID': 'r-1'}
    """
    original = headers
    values = _values(current() if context is None else context)
    # A tracestate without the traceparent it belongs to would lead astray.
    stale = {name.lower() for name in values}
    if TRACEPARENT in stale:
        stale.add(TRACESTATE)
    if isinstance(headers, Mapping):
        _write(headers, values, stale)
        return original
    raw_name = raw_value = bool(raw)
    if headers and raw is None:
        raw_name, raw_value = (isinstance(part, bytes) for part in headers[0])
    headers[:] = [pair for pair in headers if _text(pair[0]).lower() not in stale]
    for name, value in values.items():
        # ASGI wants lowercase names.
        written = name.lower().encode() if raw_name else name
        headers.append((written, value.encode() if raw_value else value))
    return headers


def extract(headers: Headers) -> Context:
    """Return the context of an incoming request or message; nothing is ever raised.

    Ids that are missing, repeated or malformed (see `valid_id`) are replaced by new ones; a
    missing correlation id becomes the request id. A bad or missing ``traceparent`` starts a
    new trace. The trace is the caller's: take ``trace.child()`` for a span of your own.

    All else is left empty, the deadline above all, so that ``bind(extract(headers))`` starts
    afresh. Who trusts a deadline in some header puts it on top:
    ``with bind(extract(headers)), deadline(seconds): ...``.

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
        lowered = _text(name).lower()
        if lowered in _READ:
            values = value if isinstance(value, list | tuple) else (value,)
            found.setdefault(lowered, []).extend(
                _text(each) for each in values if isinstance(each, str | bytes | bytearray)
            )
    request_id = _single_id(found.get("x-request-id")) or new_id()
    return Context(
        request_id=request_id,
        correlation_id=_single_id(found.get("x-correlation-id")) or request_id,
        trace=parse_trace(found.get(TRACEPARENT, ()), found.get(TRACESTATE, ())) or new_trace(),
        baggage=parse_baggage(found.get(BAGGAGE, ())),
    )


def _values(context: Context) -> dict[str, str]:
    trace = context.trace
    values = {
        REQUEST_ID: context.request_id,
        CORRELATION_ID: context.correlation_id,
        TRACEPARENT: trace and trace.traceparent,
        TRACESTATE: trace and trace.tracestate_header,
        BAGGAGE: format_baggage(context.baggage) if context.baggage else None,
    }
    # An id set by the application might hold a line break; it must not become a second header.
    return {
        name: value
        for name, value in values.items()
        if value and (name not in {REQUEST_ID, CORRELATION_ID} or valid_id(value))
    }


def _write(headers: Any, values: dict[str, str], stale: set[str]) -> None:
    for name in {name for name in headers if _text(name).lower() in stale}:
        if name in headers:  # in a multidict, the first deletion took all
            del headers[name]
    for name, value in values.items():
        headers[name] = value


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
