"""What the service is told when it starts."""

from pydantic import Field

from common.config import BaseAppSettings, SecretUrl, load
from common.db.postgres import PostgresConfig
from common.events.nats import NatsConfig
from common.events.outbox import RelayConfig


class Database(PostgresConfig):
    """PostgreSQL, such as postgresql://user:password@host/calls, with this service's defaults."""

    schema_name: str | None = "calls_api"
    application_name: str = "calls-api"
    pool_size: int = Field(default=10, ge=1, le=100)
    max_overflow: int = Field(default=10, ge=0, le=100)


class Nats(NatsConfig):
    """NATS with JetStream, under this service's name."""

    name: str = "calls-api"


class Settings(BaseAppSettings, prefix="CALLS_"):
    """Addresses of the servers, and where to listen; the same for the service and its relay."""

    database: Database
    """Set `url`, and `cursor_keys` where there are several replicas, or pages must outlive one."""
    nats: Nats
    """Set `servers`, a JSON list of URLs. Only the relay connects."""
    relay: RelayConfig = RelayConfig()
    """How the relay works."""
    redis_url: SecretUrl
    """Valkey or Redis."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=1, le=65_535)
    """Port to listen on."""
    hosts: tuple[str, ...] | None = None
    """Host names that are answered, a JSON list; all, if only a gateway reaches the service."""
    proxies: tuple[str, ...] = ()
    """Networks of the proxies in front, whose X-Forwarded-For is believed."""
    drain_seconds: float = Field(default=5.0, ge=0, le=60)
    """After SIGTERM, requests are served so long while load balancers see it is not ready."""


def from_environment() -> Settings:
    """Read CALLS_DATABASE__URL, CALLS_NATS__SERVERS, CALLS_REDIS_URL, CALLS_PORT and more.

    Raises:
        ConfigError: something is missing or wrong; the message names all of it.
    """
    return load(Settings)


def database_config() -> Database:
    """The database, for the `common-db` command."""
    return from_environment().database
