"""Which stream keeps a message, and which services may put messages there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common.domain._declaration import TYPE
from common.domain._errors import PublishNotAllowedError, UnknownStreamError, suggestion

if TYPE_CHECKING:
    from common.domain._message import Message


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of the broker and the types it keeps.

    Args:
        name: Such as ``"CREDIT"``.
        prefixes: First words of its types: ``"order"`` takes ``order.updated`` and whatever
            else starts with ``order.``.

    Example:
        >>> Stream("CALL", ("call",)).subjects
        ('evt.call.>', 'cmd.call.>')
    """

    name: str
    prefixes: tuple[str, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subject filters; ``>`` takes any number of further words."""
        return tuple(f"{kind}.{prefix}.>" for prefix in self.prefixes for kind in ("evt", "cmd"))


class Streams:
    """Streams without overlap, and the services that publish to each.

    An event may leave only from a service whose stream keeps it: it states a fact about what
    that service owns. A command asks the owner of a stream for something, so every service
    known here may send every command.

    Args:
        streams: The streams.
        services: Names of the streams a service publishes events to, by the service's name.

    Raises:
        ValueError: Two streams have one name or would take the same type, or a service names
            an unknown stream.

    Example:
        >>> streams.stream_for("notification.email.sent").name
        'NOTIFICATION'
        >>> streams.may_publish("catalog-service", "billing.invoice_paid")
        False
        >>> mine = streams.extended(
        ...     [Stream("LOYALTY", ("loyalty",))], services={"loyalty-service": ["LOYALTY"]}
        ... )
        >>> mine.may_publish("loyalty-service", "loyalty.points_earned")
        True
    """

    def __init__(
        self, streams: Iterable[Stream], services: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self._streams: dict[str, Stream] = {}
        self._by_prefix: dict[str, Stream] = {}
        for stream in streams:
            if stream.name in self._streams:
                raise ValueError(f"two streams are named {stream.name}: rename one")
            self._streams[stream.name] = stream
            for prefix in stream.prefixes:
                self._take(prefix, stream)
        self.services: dict[str, tuple[str, ...]] = {}
        """Names of the streams each service publishes events to."""
        for service, names in (services or {}).items():
            if isinstance(names, str):
                raise TypeError(f"give {service} a list of streams: [{names!r}]")
            self.services[service] = tuple(names)
            for name in self.services[service]:
                if name not in self._streams:
                    raise ValueError(
                        f"{service} publishes to {name}, which is not declared"
                        f"{suggestion(name, self._streams)}: add Stream({name!r}, …)"
                    )

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, name: str) -> Stream:
        try:
            return self._streams[name]
        except KeyError:
            raise UnknownStreamError(
                f"no stream is named {name!r}{suggestion(name, self._streams)}"
            ) from None

    def stream_for(self, message: "str | type[Message] | Message") -> Stream:
        """Return the stream that keeps a message.

        Args:
            message: A type such as ``"call.completed"``, a subject such as
                ``"evt.call.completed"``, a message class or a message.

        Raises:
            UnknownStreamError: No stream takes it, or it is no type.
        """
        name = _type_of(message)
        if not TYPE.fullmatch(name):
            raise UnknownStreamError(
                f"{name[:200]!r} is no message type: give lower-case words joined by dots, such as "
                "call.completed, or a subject, such as evt.call.completed"
            )
        words = name.split(".")
        for count in range(1, len(words)):
            stream = self._by_prefix.get(".".join(words[:count]))
            if stream is not None:
                return stream
        raise UnknownStreamError(
            f"no stream takes {name[:200]!r}{suggestion(words[0], self._by_prefix)}: give a "
            f"stream the prefix {words[0][:100]!r}, for example with streams.extended(…)"
        )

    def may_publish(self, service: str, message: "str | type[Message] | Message") -> bool:
        """Whether a service may publish a message; for its forms see `stream_for`.

        A plain type is taken for an event's; a subject says which it is.

        Raises:
            UnknownStreamError: No stream takes the message.
        """
        stream = self.stream_for(message)
        names = self.services.get(service)
        return names is not None and (_is_command(message) or stream.name in names)

    def check_publish(self, service: str, message: "str | type[Message] | Message") -> Stream:
        """Return the stream of a message which a service is about to publish.

        Raises:
            UnknownStreamError: No stream takes the message.
            PublishNotAllowedError: The service may not publish it.
        """
        stream = self.stream_for(message)
        if self.may_publish(service, message):
            return stream
        name = _type_of(message)
        if service not in self.services:
            problem = f"no streams are declared for service {service!r}" + suggestion(
                service, self.services
            )
        else:
            problem = f"{service} publishes only to {', '.join(self.services[service])}"
        raise PublishNotAllowedError(
            f"{service} may not publish {name}, which belongs to {stream.name}: {problem}",
            service=service,
            type=name,
            stream=stream.name,
        )

    def extended(
        self,
        streams: Iterable[Stream] = (),
        *,
        services: Mapping[str, Iterable[str]] | None = None,
    ) -> "Streams":
        """Return these streams with some added, and with entries of ``services`` replaced.

        Raises:
            ValueError: See `Streams`.
        """
        return Streams([*self, *streams], {**self.services, **(services or {})})

    def _take(self, prefix: str, stream: Stream) -> None:
        words = prefix.split(".")
        if not all(word and word.replace("_", "a").isalnum() and word.isascii() for word in words):
            raise ValueError(f"{stream.name}: prefix {prefix!r} must be words joined by dots")
        for taken, other in self._by_prefix.items():
            shared = min(len(words), taken.count(".") + 1)
            if words[:shared] == taken.split(".")[:shared]:
                raise ValueError(
                    f"streams {other.name} and {stream.name} overlap: {taken!r} and {prefix!r} "
                    "take the same types"
                )
        self._by_prefix[prefix] = stream


def _type_of(message: "str | type[Message] | Message") -> str:
    if isinstance(message, str):
        kind, _, rest = message.partition(".")
        return rest if kind in {"evt", "cmd"} else message
    return message.__message__.type


def _is_command(message: "str | type[Message] | Message") -> bool:
    if isinstance(message, str):
        return message.startswith("cmd.")
    return message.__message__.kind == "command"


streams = Streams(
    [
        Stream("CATALOG", ("catalog",)),
        # merchant.created is listed with the credit events, which consume it; the fact is the
        # merchant service's, and it goes where all of that service's types go.
        Stream("MERCHANT", ("merchant",)),
        Stream("BILLING", ("billing",)),
        Stream("CREDIT", ("credit", "order", "account", "subscription")),
        Stream("PROFILE", ("profile",)),
        Stream("NOTIFICATION", ("notification",)),
        Stream("ANALYTICS", ("analytics",)),
        Stream("WEBHOOKS", ("webhook",)),
        Stream("SCHEDULER", ("scheduler",)),
        Stream("AI_PROCESSING", ("ai",)),
        Stream("CALL", ("call",)),
        Stream("MEMORY", ("memory",)),
        Stream("TRANSCRIPT", ("transcript",)),
    ],
    services={
        "analytics-service": ["ANALYTICS"],
        "billing-service": ["BILLING"],
        "catalog-ai-service": ["AI_PROCESSING"],
        "catalog-connector": ["CATALOG"],
        "catalog-service": ["CATALOG"],
        "credit-service": ["CREDIT"],
        "merchant-service": ["MERCHANT"],
        "notification-service": ["NOTIFICATION"],
        "profile-ai-selfie": ["AI_PROCESSING"],
        "profile-service": ["PROFILE"],
        "scheduler-service": ["SCHEDULER"],
        "webhook-service": ["WEBHOOKS"],
    },
)
"""The streams of the platform. Add a service's own with `Streams.extended`."""


@dataclass(frozen=True, slots=True)
class StreamDefaults:
    """How a stream keeps messages, unless its declaration says otherwise."""

    retention: Literal["limits", "interest", "workqueue"] = "limits"
    max_age_days: int = 7
    max_msgs_per_subject: int = 100_000
    storage: Literal["file", "memory"] = "file"
    duplicate_window_seconds: int = 60
    allow_rollup: bool = True


@dataclass(frozen=True, slots=True)
class ConsumerDefaults:
    """How a consumer is served, unless its declaration says otherwise."""

    deliver: Literal["all", "last", "new"] = "all"
    ack: Literal["explicit", "none", "all"] = "explicit"
    max_deliver: int = 3
    ack_wait_seconds: int = 30
    batch: int = 10


STREAM_DEFAULTS = StreamDefaults()
"""The defaults of the platform."""

CONSUMER_DEFAULTS = ConsumerDefaults()
"""The defaults of the platform."""
