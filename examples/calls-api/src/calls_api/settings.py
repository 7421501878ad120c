"""What the service is told when it starts."""

from pydantic import Field

from common.config import BaseAppSettings, SecretUrl, load


class Settings(BaseAppSettings, prefix="CALLS_"):
    """Addresses of the servers, and where to listen."""

    database_url: SecretUrl
    """PostgreSQL, such as postgresql://user:password@host/calls."""
    nats_url: SecretUrl
    """NATS with JetStream."""
    redis_url: SecretUrl
    """Valkey or Redis."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=1, le=65_535)
    """Port to listen on."""


def from_environment() -> Settings:
    """Read CALLS_DATABASE_URL, CALLS_NATS_URL, CALLS_REDIS_URL, CALLS_HOST and CALLS_PORT.

    Raises:
        ConfigError: something is missing or wrong; the message names all of it.
    """
    return load(Settings)
