"""What the tests of the command share: a project with two applications on one in-memory broker."""

import asyncio
import importlib
import sys
from typing import Any
from uuid import uuid4

import pytest

from common.events.core._command import main

APPS = '''
from typing import Annotated
from common.domain import Command, Event, Registry, Sensitive, Stream, Streams, ValueObject, upcast
from common.events.core import (
    BusConfig, Constant, EventBus, Exponential, Inject, InMemoryBroker, InMemoryTransport,
    MemoryInbox, Reject, Retry,
)

REGISTRY = Registry()
STREAMS = Streams(
    [Stream("LAMP", ("lamp",)), Stream("DOOR", ("door",)), Stream("ROOF", ("roof",))],
    services={"lamps": ["LAMP"], "doors": ["DOOR"]},
)
BROKER = InMemoryBroker()
BROKEN = {"repair"}  # what handlers cannot do
HANDLED = []

class Owner(ValueObject):
    name: Annotated[str, Sensitive()]
    town: str = "Ulm"

class LitOnce(Event, type="lamp.lit", version=1, registry=REGISTRY):
    """As it was."""
    lamp: str

class Lit(Event, type="lamp.lit", version=2, oldest=1, key="lamp", registry=REGISTRY):
    """A lamp is on.

    It was off before.
    """
    lamp: str
    owners: list[Owner] = []
    code: Annotated[str | None, Sensitive()] = None
    spare: Annotated[Owner | None, Sensitive()] = None

    @upcast(1)
    @staticmethod
    def _same(data):
        return data

class Light(Command, type="lamp.light", key="owner.name", registry=REGISTRY):
    """Put a lamp on."""
    owner: Owner
    corner: tuple[int, str] = (0, "a")

class Opened(Event, type="door.opened", registry=REGISTRY):
    """A door is open."""
    door: str

def make(service, transport=None, **config):
    return EventBus(
        transport or InMemoryTransport(BROKER), source=f"/{service}", service=service,
        registry=REGISTRY, streams=STREAMS, config=BusConfig(**config),
    )

def make_lamps(transport=None):
    bus = make("lamps", transport)
    once = Retry(attempts=2, backoff=Constant(0))

    @bus.subscribe(Lit, durable="repair", retry=once, per_key=True)
    async def repair(event: Lit):
        if "repair" in BROKEN:
            raise RuntimeError("no ladder")
        HANDLED.append(("repair", event.lamp))

    @bus.subscribe(Lit, durable="count", retry=once, inbox=INBOX)
    async def count(event: Lit):
        HANDLED.append(("count", event.lamp))

    @bus.subscribe(Light, durable="switch", dead_letter=False)
    async def switch(command: Light):
        HANDLED.append(("switch", command.owner.name))
    return bus

INBOX = MemoryInbox()
lamps = make_lamps()

def doors_again():
    bus = make("doors", mode="binary")

    @bus.subscribe(Opened, durable="bell", retry=Retry(attempts=3, backoff=Exponential(2, 60)))
    async def ring(event: Opened) -> Reject:
        return Reject("no bell")
    return bus

doors = doors_again()

def broker():
    return InMemoryTransport(BROKER)

def broken():
    bus = make("lamps")
    @bus.subscribe(Lit, durable="repair")
    async def repair(event: Lit, url: Annotated[str, Inject("url")]): ...
    return bus

def borrower():
    from common.domain.calls import CallCompleted
    bus = EventBus(InMemoryTransport(BROKER), source="/borrower")
    @bus.subscribe(CallCompleted, durable="borrowed")
    async def borrow(event: CallCompleted): ...
    return bus

def unconfigured():
    from common.errors import ValidationError
    raise ValidationError("2 problems\\n  url: is required\\n  \\x1b[1mname: is required")

def failing():
    return {}["URL"]

def wanting(settings): ...

async def later(): ...

number = 7
'''


class Project:
    """A folder with the module of the applications, under a name of its own."""

    def __init__(self, path, capsys):
        self.path = path
        self.name = f"apps_{uuid4().hex}"
        self.capsys = capsys
        (path / f"{self.name}.py").write_text(APPS)
        sys.path.insert(0, str(path))
        importlib.invalidate_caches()
        self.module: Any = importlib.import_module(self.name)

    def run(self, *arguments):
        """Run the command; ``@x`` is an application, ``broker`` the configuration."""
        self.capsys.readouterr()
        given = [f"{self.name}:{each[1:]}" if each.startswith("@") else each for each in arguments]
        try:
            code = main(given)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = self.capsys.readouterr()
        return code, out, err

    def work(self, *messages, make="make_lamps"):
        """Start the bus, publish, wait until everything is settled, stop."""

        async def work():
            bus = getattr(self.module, make)()
            await bus.start()
            try:
                for message in messages:
                    await bus.publish(message)
                await bus.transport.drained()
            finally:
                await bus.stop(drain=5)

        asyncio.run(work())

    def browse(self, stream="DEAD_LETTERS"):
        return list(self.module.BROKER.stream(stream).messages.values())


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Project(tmp_path, capsys)


shared = {"project": project, "Project": Project}
