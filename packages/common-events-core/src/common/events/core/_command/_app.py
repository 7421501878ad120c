"""What is known about an application from its bus, and about all from the vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.domain import Message, Registry, Streams
from common.domain import registry as default_registry
from common.domain import streams as default_streams
from common.errors import ValidationError
from common.events.core._bus import EventBus
from common.events.core._bus_config import DEAD_LETTER_STREAM
from common.events.core._command._load import call, load, load_module
from common.events.core._declarations import StreamSpec
from common.events.core._decoder import Decoder
from common.events.core._errors import HandlerError

SHARED = "common.domain"


@dataclass(frozen=True, slots=True)
class App:
    """An application, as its bus declares it.

    Args:
        name: ``MODULE:NAME`` by which it was found.
        bus: The bus; it is not started.
    """

    name: str
    bus: EventBus

    @property
    def registry(self) -> Registry:
        """Its message classes."""
        return self.bus._life._registry  # noqa: SLF001 - of this very package

    @property
    def streams(self) -> Streams:
        """Which stream keeps a message."""
        return self.bus._life._streams  # noqa: SLF001

    def sends(self) -> list[type[Message]]:
        """Return the events of the streams the service owns.

        Commands are left out: every service may send every one of them, and none says so.
        """
        return [
            cls
            for cls in self.registry.all()
            if cls.__message__.kind == "event"
            and has_stream(self.streams, cls)
            and self.streams.may_publish(self.bus.service, cls)
        ]

    def declarations(self) -> list[StreamSpec]:
        """Return the streams the bus declares when it is started."""
        life = self.bus._life  # noqa: SLF001
        owned = self.streams.services.get(self.bus.service, ())
        specs = {name: StreamSpec.of(self.streams[name]) for name in owned}
        specs |= life._subscribed_streams()  # noqa: SLF001
        specs |= {spec.name: spec for spec in self.bus.config.streams}
        return list(specs.values())

    def problems(self) -> list[str]:
        """Return what would keep the bus from starting, whatever the broker says."""
        found: list[str] = []
        for each in self.bus.subscriptions:
            try:
                self.bus._life.dependencies.check(  # noqa: SLF001
                    each.handler.name, each.handler.wanted
                )
            except HandlerError as error:
                found.append(error.message)
            try:
                Decoder(each.types, registry=self.registry)
            except HandlerError as error:
                found.append(f"subscription {each.durable}: {error.message}")
        return found


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The messages and streams a command is about.

    Args:
        classes: Sorted by type and version.
        streams: All of them, no two of one name.
        apps: The applications given.
        registries: Where classes are found, the applications' first.
    """

    classes: Sequence[type[Message]]
    streams: Sequence[Streams]
    apps: Sequence[App]
    registries: Sequence[Registry]

    def own(self) -> list[type[Message]]:
        """Return the classes without the shared ones, unless those are all there are."""
        own = [cls for cls in self.classes if not is_below(cls, [SHARED])]
        return own or list(self.classes)


def vocabulary(apps: Sequence[str], modules: Sequence[str]) -> Vocabulary:
    """Load applications and modules that declare types.

    Args:
        apps: ``MODULE:NAME`` of buses, or of functions that return one.
        modules: If there are any, only classes declared in or below them.

    Raises:
        ValidationError: One cannot be loaded, or there are no classes.
    """
    loaded = [_app(name) for name in apps]
    for module in modules:
        load_module(module, f"--module {module}")
    registries = list({id(app.registry): app.registry for app in loaded}.values())
    if not loaded or modules:
        registries += [] if default_registry in registries else [default_registry]
    found = {
        (cls.__message__.type, cls.__message__.version, cls.__module__): cls
        for registry in registries
        for cls in registry.all()
        if not modules or is_below(cls, modules)
    }
    if modules and not found:
        raise ValidationError(
            f"{', '.join(modules)} declare no message types: name the modules that hold classes "
            "derived from Event or Command"
        )
    streams = list({id(app.streams): app.streams for app in loaded}.values())
    return Vocabulary(
        [found[key] for key in sorted(found)], streams or [default_streams], loaded, registries
    )


def declarations(words: Vocabulary) -> list[StreamSpec]:
    """Return what the applications declare; without any, the platform's streams."""
    if not words.apps:
        return [*map(StreamSpec.of, default_streams), DEAD_LETTER_STREAM]
    specs: dict[str, tuple[StreamSpec, str]] = {}
    for app in words.apps:
        for spec in app.declarations():
            known, owner = specs.setdefault(spec.name, (spec, app.name))
            if known != spec:
                raise ValidationError(
                    f"{owner} and {app.name} declare stream {spec.name} differently: give both "
                    "the same StreamSpec"
                )
    return [spec for spec, _ in specs.values()]


def has_stream(streams: Streams, cls: type[Message]) -> bool:
    """Whether a stream keeps a class."""
    first = cls.__message__.type.split(".")
    return any(
        prefix.split(".") == first[: prefix.count(".") + 1]
        for stream in streams
        for prefix in stream.prefixes
    )


def is_below(cls: type[Message], modules: Sequence[str]) -> bool:
    """Whether a class is declared in or below a module."""
    return any(f"{cls.__module__}.".startswith(f"{module}.") for module in modules)


def _app(name: str) -> App:
    bus = call(load(name, "--app"), f"--app {name}")
    if not isinstance(bus, EventBus):
        raise ValidationError(f"--app {name} is no EventBus, nor a function that returns one")
    return App(name, bus)
