"""Real PostgreSQL, Valkey and NATS servers for tests, from wheels, and faults for them.

The pytest plugin of this package gives the fixtures `postgres_url`, `redis_url` and
`nats_url`; the classes below start private servers, to be killed and cut off at will.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.testing._cancel import cancel_at_every_await
    from common.testing._errors import ServerError
    from common.testing._nats import NatsCluster, NatsServer
    from common.testing._ports import reserve_port
    from common.testing._postgres import PostgresServer
    from common.testing._process import ManagedProcess
    from common.testing._proxy import FaultProxy
    from common.testing._shared import ServerInfo
    from common.testing._valkey import ValkeyServer

__all__ = [
    # Servers
    "NatsCluster",
    "NatsServer",
    "PostgresServer",
    "ValkeyServer",
    # Your own services
    "ManagedProcess",
    "reserve_port",
    # Faults on the way
    "FaultProxy",
    # Faults within
    "cancel_at_every_await",
    # What fixtures and failures give
    "ServerError",
    "ServerInfo",
]

_HOMES = {
    "FaultProxy": "_proxy",
    "ManagedProcess": "_process",
    "NatsCluster": "_nats",
    "NatsServer": "_nats",
    "PostgresServer": "_postgres",
    "ServerError": "_errors",
    "ServerInfo": "_shared",
    "ValkeyServer": "_valkey",
    "cancel_at_every_await": "_cancel",
    "reserve_port": "_ports",
}


def __getattr__(name: str) -> object:
    # Every pytest run imports this package for its plugin; only those that use it pay for asyncio.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
