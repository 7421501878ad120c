"""Configuration that every backend has."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from common.db.core._cursor import MAX_CURSOR_KEYS

MIN_CURSOR_KEY_BYTES: Final = 32
"""Shortest key for HMAC-SHA-256: the size of its output (RFC 2104, section 3)."""


class DatabaseConfig(BaseModel):
    """Configuration of a database manager; a backend adds its own fields in a subclass.

    Args:
        url: Where the database is; may hold a password.
        pool_size: Connections that are kept.
        max_overflow: Connections above ``pool_size`` while there is need.
        timeout_seconds: Longest wait for a connection, or for a lock.
        max_limit: Most entities in one page.
        max_offset: Most rows that a numbered page or an offset may skip.
        max_bulk: Most entities in one bulk call.
        max_value_bytes: Most bytes in one text, binary or JSON value.
        cursor_keys: Secrets that sign cursors, each of at least 32 bytes. The first signs, all
            verify: to rotate, put the new one first, and drop the old one when its cursors need
            not work any longer. Without keys a random one is made, and cursors work only in
            this process and until it ends: set keys wherever there are several replicas.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        defer_build=True,  # importing this package builds no validator
    )

    url: SecretStr | None = None
    pool_size: Annotated[int, Field(ge=1, le=10_000)] = 20
    max_overflow: Annotated[int, Field(ge=0, le=10_000)] = 40
    timeout_seconds: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 30.0
    max_limit: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    max_offset: Annotated[int, Field(ge=0, lt=2**31)] = 100_000
    max_bulk: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    max_value_bytes: Annotated[int, Field(ge=1_024, le=1 << 28)] = 1 << 20
    cursor_keys: Annotated[tuple[SecretStr, ...], Field(max_length=MAX_CURSOR_KEYS)] = ()

    @field_validator("cursor_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            if len(key.get_secret_value().encode()) < MIN_CURSOR_KEY_BYTES:
                raise ValueError(f"each key needs at least {MIN_CURSOR_KEY_BYTES} bytes")
        return keys
