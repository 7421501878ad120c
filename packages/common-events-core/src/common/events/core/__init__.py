"""Typed events and commands: the bus, its handlers, and what becomes of failures."""

from typing import TYPE_CHECKING, Any

from common.events.core._batch import Batcher
from common.events.core._bus import EventBus
from common.events.core._bus_config import DEAD_LETTER_STREAM, BusConfig
from common.events.core._codec import Codec, Mode
from common.events.core._declarations import (
    DEAD_LETTER_PREFIX,
    DEAD_LETTERS,
    Change,
    DeclareMode,
    Plan,
    StreamSpec,
)
from common.events.core._decoder import Decoder
from common.events.core._envelope import Envelope
from common.events.core._errors import (
    BrokerUnavailable,
    ConsumerLost,
    DeclarationConflict,
    HandlerError,
    MessageTooLarge,
    MissingStream,
    PublishError,
    PublishRejected,
    PublishTimeout,
    TransportClosed,
    UndecodableMessage,
)
from common.events.core._event_context import EventContext, current_event
from common.events.core._handler import EventHandler
from common.events.core._health import BusHealth, SubscriptionHealth
from common.events.core._inbox import Inbox, InboxTransaction
from common.events.core._inject import Inject
from common.events.core._middleware import Middleware, Next
from common.events.core._outcome import Ack, Outcome, Reject, RetryLater
from common.events.core._publish import PublishConfig, Publisher
from common.events.core._results import Failed, Published, PublishReport
from common.events.core._retry import Backoff, Constant, Exponential, Retry
from common.events.core._subscription import Subscription, SubscriptionOptions
from common.events.core._transport import (
    NO_HEADERS,
    Capability,
    Consumer,
    ConsumerSpec,
    Delivery,
    Outgoing,
    Receipt,
    StoredMessage,
    Transport,
    TransportHealth,
)

if TYPE_CHECKING:
    from common.events.core._memory import InMemoryTransport
    from common.events.core._memory_broker import InMemoryBroker, InMemoryConfig
    from common.events.core._memory_inbox import MemoryInbox

# Loaded when asked for: services on a real broker need not import what they do not use.
_LAZY = {
    "InMemoryBroker": "common.events.core._memory_broker",
    "InMemoryConfig": "common.events.core._memory_broker",
    "InMemoryTransport": "common.events.core._memory",
    "MemoryInbox": "common.events.core._memory_inbox",
}


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415

        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value


__all__ = [
    # The bus
    "BusConfig",
    "BusHealth",
    "EventBus",
    "SubscriptionHealth",
    # Publishing
    "Batcher",
    "Failed",
    "PublishConfig",
    "PublishReport",
    "Published",
    "Receipt",
    # Handling
    "EventContext",
    "EventHandler",
    "Inject",
    "Middleware",
    "Next",
    "Subscription",
    "SubscriptionOptions",
    "current_event",
    # What a handler returns
    "Ack",
    "Outcome",
    "Reject",
    "RetryLater",
    # Retries and dead letters
    "Backoff",
    "Constant",
    "DEAD_LETTERS",
    "DEAD_LETTER_PREFIX",
    "DEAD_LETTER_STREAM",
    "Exponential",
    "Retry",
    # Inbox
    "Inbox",
    "InboxTransaction",
    "MemoryInbox",
    # In memory
    "InMemoryBroker",
    "InMemoryConfig",
    "InMemoryTransport",
    # Envelope
    "Codec",
    "Decoder",
    "Envelope",
    "Mode",
    "Publisher",
    # Declarations
    "Change",
    "ConsumerSpec",
    "DeclareMode",
    "Plan",
    "StreamSpec",
    # Writing a transport
    "Capability",
    "Consumer",
    "Delivery",
    "NO_HEADERS",
    "Outgoing",
    "StoredMessage",
    "Transport",
    "TransportHealth",
    # Errors
    "BrokerUnavailable",
    "ConsumerLost",
    "DeclarationConflict",
    "HandlerError",
    "MessageTooLarge",
    "MissingStream",
    "PublishError",
    "PublishRejected",
    "PublishTimeout",
    "TransportClosed",
    "UndecodableMessage",
]
