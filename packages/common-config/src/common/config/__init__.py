"""Typed settings from layered YAML, .env, environment and secret files, with provenance."""

from importlib import import_module
from typing import TYPE_CHECKING

from common.config._explain import Explanation, explain, explain_all
from common.config._load import load
from common.config._mappings import deep_merge, flatten
from common.config._mask import SecretUrl
from common.config._node import Source
from common.config._problem import ConfigError, Problem
from common.config._settings import BaseAppSettings, Section
from common.config._text import OptionalPath, optional
from common.config._variables import EnvPrefix

if TYPE_CHECKING:
    from common.config._brokers import EventGrid, Nats
    from common.config._postgres import Postgres
    from common.config._service import Auth, InternalAuth, Logging, Pagination, PublicAuth
    from common.config._stores import Cosmos, Redis

__all__ = [
    # Declaring settings
    "BaseAppSettings",
    "EnvPrefix",
    "SecretUrl",
    "Section",
    # Loading them
    "ConfigError",
    "OptionalPath",
    "Problem",
    "load",
    "optional",
    # Asking where values come from
    "Explanation",
    "Source",
    "explain",
    "explain_all",
    # Ready-made sections
    "Auth",
    "Cosmos",
    "EventGrid",
    "InternalAuth",
    "Logging",
    "Nats",
    "Pagination",
    "Postgres",
    "PublicAuth",
    "Redis",
    # Plain mappings
    "deep_merge",
    "flatten",
]

# Loaded when first asked for: declaring them costs a service that has its own sections time.
_SECTIONS = {
    "Auth": "_service",
    "Cosmos": "_stores",
    "EventGrid": "_brokers",
    "InternalAuth": "_service",
    "Logging": "_service",
    "Nats": "_brokers",
    "Pagination": "_service",
    "Postgres": "_postgres",
    "PublicAuth": "_service",
    "Redis": "_stores",
}


def __getattr__(name: str) -> object:
    if name in _SECTIONS:
        return getattr(import_module(f"{__name__}.{_SECTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
