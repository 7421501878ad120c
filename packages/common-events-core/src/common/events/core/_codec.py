"""Messages to bytes: CloudEvents 1.0, structured or binary."""

import re
import time as clock
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import getrandbits
from typing import Literal

from pydantic_core import PydanticSerializationError, to_json

from common.context import Context, current
from common.domain import InvalidMessageError, Message, MessageInfo, Registry
from common.domain import registry as default_registry
from common.events.core._binary import encode_headers
from common.events.core._envelope import (
    CONTENT_TYPE,
    MAX_BODY,
    MAX_ID,
    MAX_TEXT,
    SPEC_VERSION,
    schema_uri,
)
from common.events.core._errors import MessageTooLarge
from common.events.core._transport import NO_HEADERS, Outgoing

Mode = Literal["structured", "binary"]
"""Where the attributes travel: in the body beside the data, or in headers."""

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_RANDOM = 0x02  # flag of W3C Trace Context, level 2


class Codec:
    """Encodes the messages of one service.

    Structured mode puts everything into the body (CloudEvents' JSON event format), without any
    header: brokers charge for headers, and every copy of the bytes explains itself. Binary mode
    puts the attributes into ``ce-`` headers and only the data into the body.

    Args:
        source: Who sends: a URI reference, such as ``"/calls"``.
        registry: Where the classes are declared.
        mode: Where the attributes go.

    Raises:
        ValueError: The source is empty, too long or not printable.

    Example:
        >>> from common.domain.calls import CallCompleted
        >>> event = CallCompleted(
        ...     call_id="c-1", phone_number="+4930901820", duration_seconds=7, status="completed"
        ... )
        >>> body, headers = Codec(source="/calls").encode(event, id="m-1")
        >>> body[:61]
        b'{"specversion":"1.0","type":"call.completed","source":"/calls'
    """

    def __init__(
        self,
        *,
        source: str,
        registry: Registry = default_registry,
        mode: Mode = "structured",
    ) -> None:
        if not (0 < len(source) <= MAX_TEXT and source.isascii() and source.isprintable()):
            raise ValueError(
                f"source must be a URI reference such as '/calls': 1 to {MAX_TEXT} printable ASCII "
                "characters"
            )
        if mode not in {"structured", "binary"}:
            raise ValueError(f"mode is 'structured' or 'binary', not {mode!r}")
        self.source = source
        self.registry = registry
        self.mode: Mode = mode
        self._plans: dict[type[Message], _Plan] = {}
        self._second = (0, "")

    def encode(
        self,
        message: Message,
        *,
        id: str,  # noqa: A002 - the standard's word
        time: datetime | None = None,
        causation_id: str | None = None,
        context: Context | None = None,
        span: bool = True,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return body and headers of a message.

        Correlation id, tenant and trace are the context's. Without a correlation id the message
        starts a chain, named by its own id. With a trace, the message's parent is a new span of
        it, as W3C Trace Context wants of whoever takes part (section 3.3 of level 2); without
        one it starts a trace, unsampled, so that all that is done because of the message is
        found under one id.

        Args:
            message: The message.
            id: Message id: 1 to 256 printable ASCII characters.
            time: When it was made, aware; by default now.
            causation_id: Id of the message whose handling sends this one.
            context: By default the current one.
            span: ``False``: the parent is the context's own span, because a tracing system has
                just made that for this very message.

        Raises:
            TypeError: It is no message, or one of an abstract class.
            ValueError: The id, the key or the tenant cannot be sent; the time is naive.
            InvalidMessageError: The message was made without validation and does not fit its type.
            MessageTooLarge: The body is larger than 8 MiB.
        """
        data, headers, _ = self._encoded(message, id, time, causation_id, context, span)
        return data, headers

    def outgoing(
        self,
        message: Message,
        *,
        id: str,  # noqa: A002
        stream: str,
        time: datetime | None = None,
        causation_id: str | None = None,
        context: Context | None = None,
        span: bool = True,
    ) -> Outgoing:
        """Return an encoded message as transports take it; for all else see `encode`.

        Args:
            message: The message.
            id: Message id.
            stream: Name of the stream that keeps it.
            time: When it was made.
            causation_id: Id of the message whose handling sends this one.
            context: By default the current one.
            span: Whether it makes a span of its own.
        """
        data, headers, key = self._encoded(message, id, time, causation_id, context, span)
        return Outgoing(self._plans[type(message)].subject, data, id, stream, key, headers)

    # Positional and in one piece: this runs for every message.
    def _encoded(  # noqa: C901, PLR0912, PLR0917
        self,
        message: Message,
        id: str,  # noqa: A002
        time: datetime | None,
        causation_id: str | None,
        context: Context | None,
        span: bool,  # noqa: FBT001
    ) -> tuple[bytes, Mapping[str, str], str | None]:
        plan = self._plans.get(type(message)) or self._plan(type(message))
        if context is None:
            context = current()
        if not (0 < len(id) <= MAX_ID and id.isprintable() and id.isascii()):
            raise ValueError(f"a message id has 1 to {MAX_ID} printable ASCII characters")
        key = plan.key_of(message)
        if key is not None and len(key) > MAX_TEXT:
            raise ValueError(
                f"the key of this {plan.name} has more than {MAX_TEXT} characters: choose a "
                "shorter field as key"
            )
        tenant = context.tenant
        if tenant is not None and not _fits(tenant):
            raise ValueError(f"a tenant has 1 to {MAX_ID} characters, without control characters")
        correlation_id = context.correlation_id
        if correlation_id is None or not _fits(correlation_id):
            correlation_id = id
        trace = context.trace
        if trace is None:
            ids = f"{getrandbits(192):048x}"
            traceparent, tracestate = f"00-{ids[:32]}-{ids[32:]}-{_RANDOM:02x}", ""
        else:
            span_id = f"{getrandbits(64):016x}" if span else trace.span_id
            traceparent = f"00-{trace.trace_id}-{span_id}-{trace.flags:02x}"
            tracestate = trace.tracestate_header if trace.tracestate else ""
        stamp = self._now() if time is None else _rendered(time)
        try:
            # Costs a microsecond, and keeps what no consumer could read out of the stream.
            data = plan.to_json(message, warnings="error")
        except (PydanticSerializationError, UnicodeEncodeError):
            data = None
        if data is None:  # not above: those errors quote the data
            raise _unchecked(plan.name)
        attributes = {
            "id": id,
            "time": stamp,
            "traceparent": traceparent,
            "correlationid": correlation_id,
        }
        if key:
            attributes["subject"] = key
        if causation_id:
            attributes["causationid"] = causation_id
        if tenant:
            attributes["tenant"] = tenant
        if tracestate:
            attributes["tracestate"] = tracestate
        headers = NO_HEADERS
        if self.mode == "structured":
            data = b'%b,%b,"data":%b}' % (plan.head, to_json(attributes)[1:-1], data)
        else:
            headers = encode_headers({**plan.attributes, **attributes})
        if len(data) > MAX_BODY:
            raise MessageTooLarge(
                f"this {plan.name} has {len(data)} bytes, more than the {MAX_BODY} that are read: "
                "store what is large elsewhere and send where it is",
                message_id=id,
                size=len(data),
                limit=MAX_BODY,
            )
        return data, headers, key

    def _plan(self, cls: type[Message]) -> "_Plan":
        plan = self._plans[cls] = _Plan(cls, self.source)
        return plan

    def _now(self) -> str:
        micros = clock.time_ns() // 1000
        second, fraction = divmod(micros, 1_000_000)
        at, text = self._second
        if at != second:
            text = clock.strftime("%Y-%m-%dT%H:%M:%S", clock.gmtime(second))
            self._second = second, text
        return f"{text}.{fraction:06d}Z"


class _Plan:
    """What is the same for all messages of a class."""

    __slots__ = ("attributes", "head", "key_of", "name", "subject", "to_json")

    def __init__(self, cls: type[Message], source: str) -> None:
        info = getattr(cls, "__message__", None)
        if info is None or not issubclass(cls, Message):
            raise TypeError(
                f"{cls.__qualname__} is no declared message: publish an instance of a class "
                "declared with type=…"
            )
        cls.model_rebuild()  # builds what is deferred, or does nothing
        self.name = info.type
        self.subject = info.subject
        self.key_of = _key_of(info)
        self.to_json = cls.__pydantic_serializer__.to_json
        self.attributes = {
            "specversion": SPEC_VERSION,
            "type": info.type,
            "source": source,
            "dataschema": schema_uri(info),
            "datacontenttype": CONTENT_TYPE,
        }
        self.head = to_json(self.attributes)[:-1]


def _key_of(info: MessageInfo) -> Callable[[Message], str | None]:
    """Return `MessageInfo.key_of`, or what does the same sooner for the usual key of one field."""
    if len(info.key) != 1 or "." in info.key[0]:
        return info.key_of
    (name,) = info.key

    def key_of(message: Message) -> str | None:
        value: object = getattr(message, name, None)
        return None if value is None else str(value)

    return key_of


def _unchecked(name: str) -> InvalidMessageError:
    return InvalidMessageError(
        f"this {name} does not fit its class: it was made with model_construct or "
        "model_copy(update=…), which check nothing",
        type=name,
    )


def _rendered(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError("time has no offset: give an aware datetime, such as datetime.now(UTC)")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _fits(value: str) -> bool:
    # What is read must be fit to be sent on; the first test is only the quicker one.
    return 0 < len(value) <= MAX_ID and (value.isprintable() or not _UNFIT.search(value))
