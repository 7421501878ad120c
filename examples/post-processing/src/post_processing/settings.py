"""What the worker is told when it starts."""

from pydantic import Field, field_validator

from common.clients import ClientConfig
from common.config import BaseAppSettings, load
from common.db.postgres import PostgresConfig
from common.events.nats import NatsConfig
from common.events.outbox import RelayConfig


class Database(PostgresConfig):
    """PostgreSQL, such as postgresql://user:password@host/calls, with this worker's defaults."""

    schema_name: str | None = "post_processing"
    application_name: str = "post-processing"
    pool_size: int = Field(default=5, ge=1, le=100)
    max_overflow: int = Field(default=5, ge=0, le=100)


class Nats(NatsConfig):
    """NATS with JetStream, under this worker's name."""

    name: str = "post-processing"


class Settings(BaseAppSettings, prefix="POST_PROCESSING_"):
    """Addresses of the servers; the same for the worker and its relay."""

    database: Database
    """Set `url`."""
    nats: Nats
    """Set `servers`, a JSON list of URLs."""
    calls_api_url: str = Field(pattern="^https?://")
    """Where calls-api is, such as https://calls.internal. Only the worker asks it."""
    relay: RelayConfig = RelayConfig()
    """How the relay works."""

    @field_validator("calls_api_url")
    @classmethod
    def _can_be_called(cls, url: str) -> str:
        ClientConfig(service="calls-api", base_url=url)
        return url


def from_environment() -> Settings:
    """Read POST_PROCESSING_DATABASE__URL, POST_PROCESSING_CALLS_API_URL and more.

    Raises:
        ConfigError: something is missing or wrong; the message names all of it.
    """
    return load(Settings)


def database_config() -> Database:
    """The database, for the `common-db` command."""
    return from_environment().database
