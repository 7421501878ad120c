"""Configuration of the NATS transport."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]

_SCHEMES = ("nats", "tls")
_TOKEN = r"^[A-Za-z0-9_-]+$"  # noqa: S105 - a token of a subject
_OF_THE_BUS = frozenset({"batch_size", "flush_interval_seconds", "max_retries", "soft_fail"})


class NatsConfig(BaseModel):
    """Configuration of a `NatsTransport`.

    The environment is not read. ``NatsConfig(**settings.nats.config())`` takes a section of
    `common.config`, and ``NatsConfig.model_validate(section)`` any object with these attributes.

    Args:
        servers: URLs of one or more servers of the cluster: ``nats://host:4222``, or
            ``tls://…``. Further servers are learned from these. They may hold a user and
            password, or a token.
        user: User; with ``password``.
        password: The user's password.
        token: Token, where the servers want one instead.
        credentials_file: File with JWT and seed, as ``nsc`` writes them.
        nkey_seed_file: File with the seed of an nkey.
        tls_ca_file: Certificates of the authorities to trust, in place of the system's.
        tls_cert_file: This client's certificate.
        tls_key_file: Key of this client's certificate.
        tls_hostname: Name in the servers' certificates, where it is not the URL's host.
        tls_handshake_first: Do TLS before the server says anything (``handshake_first``).
        name: Of the connection, shown by the server's monitoring.
        connect_timeout_seconds: Longest time for `open`, over all servers.
        reconnect_max_seconds: Longest pause between attempts to connect again; the pauses grow
            up to it, with full jitter, and never end.
        ping_interval_seconds: How often an idle connection is tested. One that does not answer
            twice is given up and made anew.
        timeout_seconds: Longest time for one publish, all its attempts included. Streams must
            remember message ids for longer.
        ack_timeout_seconds: A message without acknowledgement for so long is sent again.
        max_in_flight: Most messages without acknowledgement; further ones wait.
        max_in_flight_bytes: Most bytes of such messages.
        api_timeout_seconds: Longest time for one request to JetStream's API. Streams are asked for
            up to three times, as a cluster that elects its leader does not answer.
        domain: JetStream domain, where it is not the connection's own.
        inbox_prefix: First words of subjects for answers, where permissions demand others.

    Raises:
        pydantic.ValidationError: Naming the field, without its value.

    Example:
        >>> NatsConfig(servers=("nats://app:secret@nats.example:4222",)).addresses
        ('nats.example:4222',)
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        from_attributes=True,
        hide_input_in_errors=True,
        validate_default=True,
        defer_build=True,  # importing this package builds no validator
    )

    servers: Annotated[tuple[SecretStr, ...], Field(min_length=1, max_length=64)] = (
        SecretStr("nats://localhost:4222"),
    )
    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    credentials_file: Path | None = None
    nkey_seed_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_hostname: str | None = None
    tls_handshake_first: bool = False
    name: Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")] = "common"
    connect_timeout_seconds: Seconds = 5.0
    reconnect_max_seconds: Seconds = 5.0
    ping_interval_seconds: Seconds = 5.0
    timeout_seconds: Seconds = 30.0
    ack_timeout_seconds: Seconds = 2.0
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    max_in_flight_bytes: Annotated[int, Field(ge=1_024, le=1 << 32)] = 32 << 20
    api_timeout_seconds: Seconds = 5.0
    domain: Annotated[str, Field(max_length=100, pattern=_TOKEN)] | None = None
    inbox_prefix: Annotated[
        str, Field(max_length=100, pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    ] = "_INBOX"

    @model_validator(mode="before")
    @classmethod
    def _own(cls, given: Any) -> Any:
        # The section of the settings also holds what the bus wants to know.
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if name not in _OF_THE_BUS}
        return given

    @field_validator("servers", mode="before")
    @classmethod
    def _several(cls, servers: Any) -> Any:
        return (servers,) if isinstance(servers, str | SecretStr) else servers

    @field_validator("servers")
    @classmethod
    def _readable(cls, servers: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for server in servers:
            _address(server)
        return servers

    @field_validator(
        "credentials_file", "nkey_seed_file", "tls_ca_file", "tls_cert_file", "tls_key_file"
    )
    @classmethod
    def _there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("is no file: name one that this process can read")
        return path

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("give user and password together")
        ways = ("user", "token", "credentials_file", "nkey_seed_file")
        if len(given := [way for way in ways if getattr(self, way) is not None]) > 1:
            raise ValueError(f"give one way to authenticate, not {' and '.join(given)}")
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_key_file needs tls_cert_file")
        if self.tls_ca_file or self.tls_cert_file:
            tls_context(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        if self.ack_timeout_seconds > self.timeout_seconds:
            raise ValueError("ack_timeout_seconds must not be longer than timeout_seconds")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of each server, for messages: without what is secret."""
        return tuple(_address(server) for server in self.servers)


def tls_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return what TLS needs.

    Raises:
        ValueError: Naming the field whose file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError:  # as all errors of ssl are
        raise ValueError(f"tls_ca_file: {ca} holds no certificates: PEM is wanted") from None
    if cert is not None:
        try:
            # Without a password, OpenSSL would ask for it at the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
        except OSError:
            raise ValueError(
                f"tls_cert_file and tls_key_file: {cert}{f' and {key}' if key else ''} hold no "
                "certificate with its key: PEM without a password is wanted"
            ) from None
    return context


def _address(server: SecretStr) -> str:
    """Return ``host:port``.

    Raises:
        ValueError: With what is wrong, and without the URL, which may hold a password.
    """
    try:
        parts = urlsplit(server.get_secret_value())
        port = parts.port
    except ValueError:
        raise ValueError("a server's host or port cannot be read") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            "a server's URL must start with nats:// or tls://, such as nats://nats.example:4222"
        )
    if not parts.hostname:
        raise ValueError("a server's URL names no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port or 4222}"
