"""Configuration of the PostgreSQL backend."""

from typing import Annotated, Any, ClassVar, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.db.core import DatabaseConfig
from common.db.postgres._names import quote
from common.errors import ValidationError

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OPTIONS = ("host", "port", "sslmode", "sslrootcert", "target_session_attrs")

_RULE: Final = "common_config_rule"
"""Type of errors whose text `common.config` shows, though the field is secret."""

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class PostgresConfig(DatabaseConfig):
    """Configuration of a `PostgresDatabase`.

    The environment is not read: neither ``PGHOST`` and its like, nor ``~/.pgpass``. (asyncpg
    still finds a client's certificate where libpq does, ``~/.postgresql`` or ``PGSSLCERT``.)

    Args:
        url: ``postgresql://user:password@host:port/database``; ``?sslmode=`` and
            ``?sslrootcert=`` as libpq has them, but a mode that verifies needs a file, or
            ``system``; ``?host=/folder`` for a Unix socket.
        replicas: URLs of read replicas. Calls outside units of work that only read go to them,
            and to the primary when none answers.
        replica_lag_seconds: How long after a write the same task reads from the primary.
        schema_name: Schema of tables that name none; without it the server's search path.
        application_name: Shown in ``pg_stat_activity``.
        connect_timeout_seconds: Longest time to make a connection.
        statement_timeout_seconds: Longest time of a statement; a nearer deadline of the context
            shortens it.
        idle_transaction_seconds: The server ends transactions that did nothing for so long.
        statement_cache_size: Prepared statements kept by each connection.
        max_connection_age_seconds: A connection is replaced when it is so old, give or take 10 %.
        pgbouncer: The URL leads to a pooler in transaction mode (pgbouncer, Supavisor, RDS Proxy):
            no named prepared statements, no session settings, no locks of a session; each call
            runs in a transaction of its own, because a statement is prepared in one message and
            run in another.

    Raises:
        pydantic.ValidationError: Naming the field, without its value.
    """

    replicas: Annotated[tuple[SecretStr, ...], Field(max_length=16)] = ()
    replica_lag_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 1.0
    schema_name: str | None = None
    application_name: Annotated[str, Field(max_length=63, pattern=r"^[ -~]*$")] = "common"
    connect_timeout_seconds: Seconds = 10.0
    statement_timeout_seconds: Seconds = 30.0
    idle_transaction_seconds: Seconds = 60.0
    statement_cache_size: Annotated[int, Field(ge=0, le=10_000)] = 256
    max_connection_age_seconds: Seconds = 1_800.0
    pgbouncer: bool = False

    @field_validator("url")
    @classmethod
    def _primary(cls, url: SecretStr | None) -> SecretStr:
        if url is None:
            raise _wrong("give postgresql://user:password@host:port/database")
        connect_arguments(url)
        return url

    @field_validator("replicas")
    @classmethod
    def _replicas(cls, urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for url in urls:
            connect_arguments(url)
        return urls

    @field_validator("schema_name")
    @classmethod
    def _schema(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                quote(name)
            except ValidationError as error:
                raise ValueError(error.message) from None
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.statement_cache_size and self.pgbouncer:
            if "statement_cache_size" in self.model_fields_set:
                raise ValueError("statement_cache_size must be 0, or left out, with pgbouncer")
            object.__setattr__(self, "statement_cache_size", 0)
        return self

    _DEFAULT_PORT: ClassVar[int] = 5432


def connect_arguments(url: SecretStr) -> dict[str, Any]:
    """Return what `asyncpg.connect` needs from a URL, so that it asks no environment.

    Raises:
        ValueError: With what is wrong, and without the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url.get_secret_value())
        port = parts.port
    except ValueError:
        raise _wrong("the URL's host or port cannot be read") from None
    if parts.scheme not in _SCHEMES:
        raise _wrong("the URL must start with postgresql://")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    for name in options:
        if name not in _OPTIONS:
            raise _wrong(f"the URL has an unknown option; known are {', '.join(_OPTIONS)}")
    host = unquote(parts.hostname or "") or options.get("host")
    if not host:
        raise _wrong("the URL names no host")
    database = unquote(parts.path[1:])
    if not database or not parts.username:
        raise _wrong("the URL must name a user and a database")
    if "port" in options and not options["port"].isdigit():
        raise _wrong("the URL's port is no number")
    if (mode := options.get("sslmode", "prefer")) not in _SSL_MODES:
        raise _wrong(f"sslmode must be one of {', '.join(_SSL_MODES)}")
    return {
        "host": host,
        "port": port or int(options.get("port", PostgresConfig._DEFAULT_PORT)),  # noqa: SLF001
        "user": unquote(parts.username),
        "password": unquote(parts.password or ""),
        "database": database,
        "ssl": _ssl(mode, options.get("sslrootcert")) if not host.startswith("/") else False,
        "target_session_attrs": options.get("target_session_attrs", "any"),
    }


def _wrong(message: str) -> PydanticCustomError:
    """Return an error that says what is wrong with a URL; ``message`` must not hold a value."""
    return PydanticCustomError(_RULE, "{problem}", {"problem": message})


def _ssl(mode: str, root: str | None) -> Any:
    """Return asyncpg's ``ssl``: its modes, or a context where a root certificate is named."""
    if mode not in ("verify-ca", "verify-full"):
        return mode
    if root is None:
        raise _wrong(f"sslmode={mode} needs sslrootcert=FILE, or sslrootcert=system")
    import ssl  # noqa: PLC0415 - costly, and seldom needed

    try:
        context = ssl.create_default_context(cafile=None if root == "system" else root)
    except OSError:
        raise _wrong("sslrootcert names no readable file") from None
    context.check_hostname = mode == "verify-full"
    return context
