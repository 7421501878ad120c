"""Configurations for tests."""

from typing import Any

from common.events.nats._config import NatsConfig


def settings(servers: Any, **changes: Any) -> NatsConfig:
    """Return a configuration, from values as a file of settings has them."""
    return NatsConfig.model_validate({"servers": servers, **changes})
