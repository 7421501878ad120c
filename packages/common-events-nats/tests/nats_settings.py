"""Configurations for tests."""

from typing import Any

from common.events.nats._config import NatsConfig


def settings(servers: Any, **changes: Any) -> NatsConfig:
    """Return a configuration, from values as a file of settings has them."""
    given = {"servers": servers, "connect_timeout_seconds": 30, **changes}  # a busy machine's
    return NatsConfig.model_validate(given)
