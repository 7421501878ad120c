"""The section for PostgreSQL."""

from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import quote, urlencode

from pydantic import Field, SecretStr, model_validator

from common.config._mask import SecretUrl
from common.config._problem import broken_rule
from common.config._ready import Count, LibrarySection, Port, Seconds, arguments

_LOCAL = frozenset({"localhost", "host.docker.internal"})


class Postgres(LibrarySection):
    """One PostgreSQL database: for ``common-db-postgres``.

    For the variables of older deployments (``CREDIT_DB_HOST``, ``CREDIT_DB_PORT_EXTERNAL``, …)
    give the field an `EnvPrefix`; the fields carry those names.

    Example:
        >>> db = Postgres(name="credit", user="app", password=SecretStr("pw"), port_external=15432)
        >>> db.url
        SecretUrl('postgresql+asyncpg://**********@localhost:15432/credit')
        >>> db.config()["pool_size"]
        20
    """

    enabled: bool = True
    """Whether the service uses this database; if not, nothing else is required."""
    host: str = Field(default="localhost", min_length=1)
    """Host name, address, or the folder of a Unix socket."""
    port: Port = 5432
    """Port, as seen from within the deployment."""
    port_external: Port | None = None
    """Port from outside of it; used instead of `port` when the host is this machine."""
    name: str = ""
    """Name of the database."""
    user: str = ""
    """Role to connect as."""
    password: SecretStr | None = None
    """The role's password; none for trust or certificate authentication."""
    pool_size: Count = 20
    """Connections kept open."""
    max_overflow: Count = 40
    """Connections opened beyond `pool_size` under load."""
    timeout_seconds: Seconds = 30
    """How long to wait for a connection, in seconds."""
    pool_pre_ping: bool = False
    """Whether to test each connection before use, at the cost of a round trip."""
    pool_recycle: int = Field(default=3600, ge=-1)
    """Age in seconds at which a connection is replaced; -1 for never."""
    async_driver: str = Field(default="asyncpg", pattern=r"^[a-z0-9_]+$")
    """Driver in SQLAlchemy's URL."""
    echo: bool = False
    """Whether to log every statement."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.enabled and not (self.name and self.user):
            raise broken_rule("name and user are required, unless enabled is false")
        return self

    @property
    def effective_port(self) -> int:
        """`port_external` if the host is this machine and it is set, else `port`."""
        if self.port_external is not None and _is_local(self.host):
            return self.port_external
        return self.port

    @property
    def url(self) -> SecretUrl:
        """SQLAlchemy's URL, with the driver."""
        return SecretUrl(self._url(f"postgresql+{self.async_driver}"))

    @property
    def dsn(self) -> SecretUrl:
        """The connection URI of libpq and asyncpg.

        https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
        """
        return SecretUrl(self._url("postgresql"))

    def config(self) -> dict[str, Any]:
        """Return ``url`` and the fields for the pool, as plain data; see `LibrarySection`."""
        pool = ("pool_size", "max_overflow", "timeout_seconds", "pool_pre_ping", "pool_recycle")
        values = {name: getattr(self, name) for name in (*pool, "echo")}
        return arguments({"url": self.url, **values})

    def _url(self, scheme: str) -> str:
        user = quote(self.user, safe="")
        if self.password is not None:
            user += f":{quote(self.password.get_secret_value(), safe='')}"
        name = quote(self.name, safe="")
        if self.host.startswith("/"):
            query = urlencode({"host": self.host, "port": self.effective_port})
            return f"{scheme}://{user}@/{name}?{query}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}@{host}:{self.effective_port}/{name}"


def _is_local(host: str) -> bool:
    """Whether it is this machine: by name, by loopback address, or by a socket's folder."""
    if host.startswith("/") or host.lower().removesuffix(".") in _LOCAL:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # another name
        return False
