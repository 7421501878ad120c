"""What travels with the data of a message: the attributes of CloudEvents 1.0."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from common.context import Trace, parse_trace
from common.domain import Message, MessageInfo

MAX_BODY = 8 * 1024 * 1024
"""Most bytes of a body, both when it is encoded and before it is parsed."""
MAX_ID = 256
"""Most characters of an id: the message's, its correlation and causation, the tenant."""
MAX_TEXT = 1024
"""Most characters of any other attribute, and of an extension."""
MAX_EXTENSIONS = 32
"""Most attributes which neither CloudEvents nor this package knows."""

CONTENT_TYPE = "application/json"
SPEC_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The attributes of a message: CloudEvents 1.0 and its extensions for tracing and correlation.

    Attributes:
        id: Message id, by which repetitions are known; at most 256 characters.
        type: Such as ``"call.completed"``.
        source: Who sent it: a URI reference, such as ``"/calls"``.
        subject: Partition key; ``None`` when the type has none. A sender that left it out gets
            the key of the message as read.
        time: When it was made, aware and in UTC; ``None`` when a foreign sender did not say.
        dataschema: URI of the schema; it ends in the version.
        datacontenttype: Always JSON.
        correlation_id: The whole chain of requests and messages it belongs to (attribute
            ``correlationid``).
        causation_id: The message whose handling sent this one (``causationid``).
        tenant: Whose data it is about.
        traceparent: Span that sent it, by W3C Trace Context (CloudEvents' distributed tracing
            extension); `trace` is the same, parsed.
        tracestate: What tracing systems carry along with it.
        extensions: Further attributes.

    Example:
        >>> Envelope(id="m-1", type="a.b", source="/x", dataschema="urn:common:a.b/2").version
        2
    """

    id: str
    type: str
    source: str
    subject: str | None = None
    time: datetime | None = None
    dataschema: str = ""
    specversion: str = SPEC_VERSION
    datacontenttype: str = CONTENT_TYPE
    correlation_id: str | None = None
    causation_id: str | None = None
    tenant: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    extensions: Mapping[str, JsonValue] = field(default_factory=dict)
    # Where the validator puts the message, so that one pass reads envelope and data.
    _data: Message | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def version(self) -> int:
        """Version of the data as it was sent: the end of ``dataschema``, 1 where it has none."""
        return schema_version(self.dataschema) or 1

    @property
    def trace(self) -> Trace | None:
        """The trace it belongs to, with the sender's span."""
        return (self.traceparent and parse_trace(self.traceparent, self.tracestate or ())) or None


def schema_uri(info: MessageInfo) -> str:
    """Return the ``dataschema`` of a class: a name without a host, for nothing is served there."""
    return f"urn:common:{info.type}/{info.version}"


def schema_version(uri: str) -> int | None:
    """Return the version at the end of a ``dataschema``, ``None`` when it does not end in one.

    Example:
        >>> schema_version("https://schemas.example/call.completed/12")
        12
    """
    last = uri.rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) <= 9 else None
