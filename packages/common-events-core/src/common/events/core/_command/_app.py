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

    def sends(self) -> list[type[Message]]:
        """Return the events of the streams the service owns.

        Commands are left out: every service may send every one of them, and none says so.
        """
        bus = self.bus
        return [
            cls
            for cls in bus.registry.all()
            if cls.__message__.kind == "event"
            and has_stream(bus.streams, cls)
            and bus.streams.may_publish(bus.service, cls)
        ]


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
        """Return the classes without those of the shared vocabulary."""
        return [cls for cls in self.classes if not is_below(cls, [SHARED])]


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
    registries = list({id(app.bus.registry): app.bus.registry for app in loaded}.values())
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
    streams = list({id(app.bus.streams): app.bus.streams for app in loaded}.values())
    return Vocabulary(
        [found[key] for key in sorted(found)], streams or [default_streams], loaded, registries
    )


def declarations(words: Vocabulary) -> list[StreamSpec]:
    """Return what the applications declare; without any, the platform's streams."""
    if not words.apps:
        return [*map(StreamSpec.of, default_streams), DEAD_LETTER_STREAM]
    specs: dict[str, tuple[StreamSpec, str]] = {}
    for app in words.apps:
        for spec in app.bus.declarations:
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
