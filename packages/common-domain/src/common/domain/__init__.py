"""The shared vocabulary: events, commands, streams, statuses, errors and idempotency keys.

Here is what declares and finds messages. The vocabulary itself lies in one module per area:
`common.domain.calls`, `memory`, `transcripts`, `voice`, `catalog`, `credit`, `merchant`,
`notification`, `scheduler`, and the errors of `analysis`, `profile` and `selfie`.
"""

from typing import TYPE_CHECKING

from common.domain._declaration import MessageInfo, upcast
from common.domain._errors import (
    InvalidMessageError,
    MessageError,
    NewerVersionError,
    PublishNotAllowedError,
    UnknownStreamError,
    UnknownTypeError,
    UnknownVersionError,
)
from common.domain._idempotency import Keyed, idempotency_key
from common.domain._json import JsonData, JsonObject
from common.domain._message import Command, Event, Message
from common.domain._model import ValueObject
from common.domain._registry import Registry, registry
from common.domain._sensitive import MASK, Sensitive, masked, sensitive_fields
from common.domain._streams import (
    CONSUMER_DEFAULTS,
    STREAM_DEFAULTS,
    ConsumerDefaults,
    Stream,
    StreamDefaults,
    Streams,
    streams,
)
from common.domain._types import (
    Count,
    CronExpression,
    EmailAddress,
    Identifier,
    Label,
    PhoneNumber,
    Seconds,
    Text,
    TimeZoneName,
    Token,
    UtcDatetime,
    WebUrl,
)

if TYPE_CHECKING:
    from common.domain._lock import (
        Incompatibility,
        SchemaLockError,
        check_compatibility,
        schema_lock,
    )

__all__ = [
    # Declaring messages
    "Command",
    "Event",
    "Message",
    "MessageInfo",
    "ValueObject",
    "upcast",
    # Finding and reading them
    "Registry",
    "registry",
    # Streams
    "CONSUMER_DEFAULTS",
    "ConsumerDefaults",
    "STREAM_DEFAULTS",
    "Stream",
    "StreamDefaults",
    "Streams",
    "streams",
    # Keeping schemas compatible
    "Incompatibility",
    "check_compatibility",
    "schema_lock",
    # Idempotency
    "Keyed",
    "idempotency_key",
    # Sensitive fields
    "MASK",
    "Sensitive",
    "masked",
    "sensitive_fields",
    # Field types
    "Count",
    "CronExpression",
    "EmailAddress",
    "Identifier",
    "JsonData",
    "JsonObject",
    "Label",
    "PhoneNumber",
    "Seconds",
    "Text",
    "TimeZoneName",
    "Token",
    "UtcDatetime",
    "WebUrl",
    # Errors
    "InvalidMessageError",
    "MessageError",
    "NewerVersionError",
    "PublishNotAllowedError",
    "SchemaLockError",
    "UnknownStreamError",
    "UnknownTypeError",
    "UnknownVersionError",
]


def __getattr__(name: str) -> object:
    # Tooling: services that only send and read messages do not pay for its import.
    if name in {"Incompatibility", "SchemaLockError", "check_compatibility", "schema_lock"}:
        from common.domain import _lock  # noqa: PLC0415

        return getattr(_lock, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
