"""The sections for logging, authentication and pages."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from common.config._problem import broken_rule
from common.config._ready import Count, LibrarySection


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class Logging(LibrarySection):
    """How the service logs: for ``common-logging``."""

    service: str = Field(min_length=1)
    """Name of the service in every line."""
    environment: str = "development"
    """Where the service runs, such as ``production``."""
    level: Level = "INFO"
    """Least level that is logged."""
    levels: dict[str, Level] = Field(default_factory=dict[str, Level])
    """Other levels for loggers by name, such as ``{"sqlalchemy.engine": "WARNING"}``."""
    format: Literal["json", "console"] = "json"
    """JSON lines for machines, or coloured lines for people."""
    file: Path | None = None
    """File to log to as well; it is rotated."""
    file_max_bytes: int = Field(default=10 * 1024 * 1024, ge=1024)
    """Size in bytes at which the file is rotated."""
    file_backups: Count = 5
    """Rotated files that are kept."""


class PublicAuth(LibrarySection):
    """Tokens of users."""

    enabled: bool = True
    """Whether users must prove who they are; off in development only."""
    issuer: str | None = None
    """Who issues the tokens (``iss``)."""
    audience: str | None = None
    """For whom they are (``aud``)."""
    algorithm: str = "HS256"
    """Algorithm of the signatures (RFC 7518, section 3.1)."""
    secret_key: SecretStr | None = None
    """Key of the HMAC algorithms: at least 32 bytes for HS256 (RFC 7518, section 3.2)."""
    private_key: SecretStr | None = None
    """Key in PEM form to sign with, of the other algorithms."""
    public_key: str | None = None
    """Key in PEM form to verify with, of the other algorithms."""
    jwks_url: str | None = None
    """Where the issuer publishes its keys instead; ``https`` only."""
    access_token_expire_minutes: int = Field(default=30, ge=1)
    """Life of an access token, in minutes."""
    refresh_token_expire_days: int = Field(default=7, ge=1)
    """Life of a refresh token, in days."""
    refresh_tokens: bool = True
    """Whether refresh tokens are issued."""
    token_url: str = "/token"  # noqa: S105 - a path
    """Path at which tokens are issued, for the API's documentation."""

    @model_validator(mode="after")
    def _has_allowed_algorithm(self) -> Self:
        if self.algorithm.lower() == "none":
            raise broken_rule("algorithm none means no signature: choose another")
        return self


class InternalAuth(LibrarySection):
    """How services prove themselves to each other."""

    enabled: bool = True
    """Whether calling services must prove who they are; off in development only."""
    api_key_header: str = Field(default="X-API-Key", pattern=r"^[A-Za-z0-9-]+$")
    """Header that carries the key."""
    api_key: SecretStr | None = None
    """This service's own key for calling others."""
    allowed_services: tuple[str, ...] = ()
    """Names of the services that may call this one."""
    mutual_tls: bool = False
    """Whether the caller's certificate counts as its identity."""


class Auth(LibrarySection):
    """Authentication of users and services: for ``common-auth``."""

    public: PublicAuth = PublicAuth()
    """Tokens of users."""
    internal: InternalAuth = InternalAuth()
    """Keys of services."""


class Pagination(LibrarySection):
    """Pages of lists: for ``common-api``."""

    page_default: int = Field(default=1, ge=1)
    """The page given without asking, from 1."""
    limit_default: int = Field(default=50, ge=1)
    """Entries of a page without asking."""
    limit_max: int = Field(default=1000, ge=1)
    """Most entries that a caller may ask for."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.limit_default > self.limit_max:
            raise broken_rule("limit_default is greater than limit_max")
        return self
