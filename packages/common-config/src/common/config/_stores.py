"""The sections for Redis and Cosmos DB."""

from typing import Any, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, model_validator

from common.config._mask import SecretUrl
from common.config._problem import broken_rule
from common.config._ready import Count, LibrarySection, Seconds, arguments


class Redis(LibrarySection):
    """A Redis or Valkey server, Sentinel or cluster: for ``common-redis``.

    Example:
        >>> Redis(url=SecretUrl("redis://cache:6379/0"), password=SecretStr("pw")).dsn
        SecretUrl('redis://**********@cache:6379/0')
    """

    url: SecretUrl = Field(default=SecretUrl("redis://localhost:6379/0"), validate_default=False)
    """``redis://``, ``rediss://`` (TLS), ``redis+sentinel://`` or ``redis+cluster://``."""
    username: str | None = None
    """User of the access control list, unless it stands in the URL."""
    password: SecretStr | None = None
    """Password, unless it stands in the URL: for a secret file of its own."""
    decode_responses: bool = True
    """Whether values are text instead of bytes."""
    max_connections: int = Field(default=50, ge=1)
    """Most connections of the pool."""
    socket_timeout_seconds: Seconds = 5
    """How long to wait for an answer, in seconds."""
    socket_connect_timeout_seconds: Seconds = 5
    """How long to wait for a connection, in seconds."""
    retry_on_timeout: bool = True
    """Whether commands that may be repeated are, after a timeout."""
    health_check_interval_seconds: Count = 30
    """Idle time in seconds after which a connection is tested before use; 0 for never."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        scheme, found, rest = self.url.get_secret_value().partition("://")
        if not found or scheme not in _SCHEMES:
            raise broken_rule(
                "url must begin with redis://, rediss://, redis+sentinel://, redis+cluster:// "
                "or unix://"
            )
        if "@" in rest.partition("/")[0] and (self.username or self.password):
            raise broken_rule("user and password are in url: leave out username and password")
        return self

    @property
    def dsn(self) -> SecretUrl:
        """`url` with `username` and `password` in it."""
        scheme, _, rest = self.url.get_secret_value().partition("://")
        if self.username is None and self.password is None:
            return self.url
        password = self.password.get_secret_value() if self.password else ""
        user = f"{quote(self.username or '', safe='')}:{quote(password, safe='')}"
        return SecretUrl(f"{scheme}://{user}@{rest}")

    def config(self) -> dict[str, Any]:
        """Return ``url`` with the password in it, and the other fields; see `LibrarySection`."""
        left_out = {"url", "username", "password"}
        names = [name for name in type(self).model_fields if name not in left_out]
        return arguments({"url": self.dsn, **{name: getattr(self, name) for name in names}})


_SCHEMES = ("redis", "rediss", "redis+sentinel", "redis+cluster", "unix")


class Cosmos(LibrarySection):
    """An Azure Cosmos DB account and database: for ``common-db-cosmos``."""

    endpoint: SecretUrl
    """The account's URI, such as ``https://orders.documents.azure.com:443/``."""
    database: str
    """Name of the database."""
    key: SecretStr | None = None
    """Account key; without one, the managed identity is used."""
    timeout_seconds: Seconds = 30
    """Longest time for one operation, in seconds."""
    preferred_locations: tuple[str, ...] = ()
    """Regions to read from, the nearest first."""
    verify_tls: bool = True
    """Whether the server's certificate is checked; off only for the emulator."""
