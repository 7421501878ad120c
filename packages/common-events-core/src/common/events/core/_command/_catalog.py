"""``common-events catalog``: what there is, on one page."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from common.domain import Message, Stream
from common.events.core._bus_config import DEAD_LETTER_STREAM
from common.events.core._command._app import Vocabulary, has_stream
from common.events.core._command._fields import Field, fields_of
from common.events.core._command._page import page
from common.events.core._command._schemas import schemas_of
from common.events.core._declarations import DEAD_LETTERS, StreamSpec
from common.events.core._retry import Constant, Exponential, Retry
from common.events.core._subscription import Subscription


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a type that has a class."""

    number: int
    name: str
    description: str
    key: tuple[str, ...]
    oldest: int
    fields: Sequence[Field]


@dataclass(frozen=True, slots=True)
class Type:
    """A message type; its newest version comes first."""

    name: str
    kind: str
    subject: str
    versions: Sequence[Version]
    subscribers: Sequence["Subscriber"]


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """A stream with its types; ``stream`` is ``None`` for types that none takes."""

    stream: Stream | None
    publishers: Sequence[str]
    types: Sequence[Type]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription of one of the applications."""

    service: str
    durable: str
    handler: str
    types: Sequence[str]
    attempts: int
    pauses: str
    gives_up_on: Sequence[str]
    dead_letter: bool
    unknown: str
    per_key: bool
    inbox: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of it."""

    title: str
    streams: Sequence[StreamEntry]
    subscribers: Sequence[Subscriber]
    dead_letters: StreamSpec
    apps: int


def catalog(words: Vocabulary, *, title: str | None) -> str:
    """Return the page as HTML.

    Args:
        words: The messages, and the applications whose subscriptions are shown.
        title: Of the page.
    """
    subscribers = [
        _subscriber(app.bus.service, each) for app in words.apps for each in app.bus.subscriptions
    ]
    types = _types(words.classes, subscribers)
    return page(
        Catalog(
            title=title or "Events and commands",
            streams=list(_streams(words, types)),
            subscribers=subscribers,
            dead_letters=_dead_letters(words),
            apps=len(words.apps),
        )
    )


def _types(
    classes: Sequence[type[Message]], subscribers: Sequence[Subscriber]
) -> dict[str, tuple[Type, type[Message]]]:
    names, definitions = schemas_of(classes, "#/$defs/{model}")
    versions: dict[str, list[tuple[Version, type[Message]]]] = {}
    for cls, name in zip(classes, names, strict=True):
        info = cls.__message__
        found = Version(
            number=info.version,
            name=cls.__name__,
            description=inspect.getdoc(cls) or "",
            key=info.key,
            oldest=info.oldest,
            fields=fields_of(definitions[name], definitions),
        )
        versions.setdefault(info.type, []).append((found, cls))
    types: dict[str, tuple[Type, type[Message]]] = {}
    for name, declared in versions.items():
        newest_first = sorted(declared, key=lambda each: -each[0].number)
        cls = newest_first[0][1]
        info = cls.__message__
        readers = [each for each in subscribers if name in each.types]
        entry = Type(name, info.kind, info.subject, [each for each, _ in newest_first], readers)
        types[name] = entry, cls
    return types


def _streams(
    words: Vocabulary, types: dict[str, tuple[Type, type[Message]]]
) -> Sequence[StreamEntry]:
    entries: dict[str, StreamEntry] = {}
    left = dict(types)
    for streams in words.streams:
        for stream in streams:
            kept = [
                name
                for name, (_, cls) in left.items()
                if has_stream(streams, cls) and streams.stream_for(cls).name == stream.name
            ]
            publishers = {
                service for service, names in streams.services.items() if stream.name in names
            }
            known = entries.get(stream.name)
            if known is not None:
                publishers.update(known.publishers)
            entries[stream.name] = StreamEntry(
                stream,
                sorted(publishers),
                [*(known.types if known else ()), *(left.pop(name)[0] for name in kept)],
            )
    found = sorted(entries.values(), key=lambda entry: (not entry.types, _name(entry)))
    if left:
        found.append(StreamEntry(None, (), [entry for entry, _ in left.values()]))
    return found


def _name(entry: StreamEntry) -> str:
    return entry.stream.name if entry.stream else ""


def _subscriber(service: str, subscription: Subscription) -> Subscriber:
    return Subscriber(
        service=service,
        durable=subscription.durable,
        handler=subscription.handler.name,
        types=[cls.__message__.type for cls in subscription.types],
        attempts=subscription.retry.attempts,
        pauses=_pauses(subscription.retry),
        gives_up_on=[each.__name__ for each in subscription.give_up_on],
        dead_letter=subscription.dead_letter,
        unknown=subscription.unknown,
        per_key=subscription.per_key,
        inbox=subscription.inbox is not None,
    )


def _pauses(retry: Retry) -> str:
    if retry.attempts == 1:
        return "none"
    match retry.backoff:
        case Constant(pause):
            text = f"{pause:g} s"
        case Exponential(first, maximum, factor):
            text = f"{first:g} s, times {factor:g} each, at most {maximum:g} s"
        case other:
            text = type(other).__name__
    return f"{text}, with jitter" if retry.jitter else text


def _dead_letters(words: Vocabulary) -> StreamSpec:
    """Return the stream of dead letters as the applications declare it."""
    for app in words.apps:
        for spec in app.bus.config.streams:
            if spec.name == DEAD_LETTERS:
                return spec
    return DEAD_LETTER_STREAM
