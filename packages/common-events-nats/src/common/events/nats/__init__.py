"""NATS JetStream for `common.events.core`: publishing, consuming, declaring; nothing is lost."""

from importlib import import_module
from typing import TYPE_CHECKING

from common.events.nats._config import NatsConfig
from common.events.nats._errors import (
    ErrCode,
    JetStreamDisabled,
    JetStreamError,
    NatsAuthenticationError,
    NatsPermissionError,
    NatsTimeout,
    NoResponders,
)
from common.events.nats._transport import NatsTransport

if TYPE_CHECKING:
    from common.events.nats._key_value import KeyValue, open_key_value
    from common.events.nats._objects import ObjectInfo, ObjectStore, open_object_store
    from common.events.nats._requests import Request, Response, Service, request, serve
    from common.events.nats._store_errors import (
        BucketNotFound,
        KeyExists,
        ObjectDamaged,
        ObjectNotFound,
        ObjectTooLarge,
        RevisionConflict,
    )
    from common.events.nats._watch import Entry

__all__ = [
    # The transport
    "NatsConfig",
    "NatsTransport",
    # Requests and replies
    "Request",
    "Response",
    "Service",
    "request",
    "serve",
    # Key-value and object stores
    "Entry",
    "KeyValue",
    "ObjectInfo",
    "ObjectStore",
    "open_key_value",
    "open_object_store",
    # Errors
    "BucketNotFound",
    "ErrCode",
    "JetStreamDisabled",
    "JetStreamError",
    "KeyExists",
    "NatsAuthenticationError",
    "NatsPermissionError",
    "NatsTimeout",
    "NoResponders",
    "ObjectDamaged",
    "ObjectNotFound",
    "ObjectTooLarge",
    "RevisionConflict",
]

# Loaded when first asked for: a service that only has events does not pay for them.
_LAZY = {
    "_key_value": ("KeyValue", "open_key_value"),
    "_objects": ("ObjectInfo", "ObjectStore", "open_object_store"),
    "_requests": ("Request", "Response", "Service", "request", "serve"),
    "_store_errors": (
        "BucketNotFound",
        "KeyExists",
        "ObjectDamaged",
        "ObjectNotFound",
        "ObjectTooLarge",
        "RevisionConflict",
    ),
    "_watch": ("Entry",),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
