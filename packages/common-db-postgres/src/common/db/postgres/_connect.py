"""Making one connection, with the settings and codecs that everything here relies on."""

import re
from decimal import Decimal
from json import JSONEncoder, loads
from typing import Any, Final, TypeAlias

import asyncpg
from pydantic import SecretStr

from common.db.core import ConnectionLost
from common.db.postgres._config import PostgresConfig, connect_arguments
from common.db.postgres._errors import FOREIGN, translate

Connection: TypeAlias = Any
"""An `asyncpg.Connection`; asyncpg has no types of its own."""

_connect: Any = asyncpg.connect  # its timeouts may be fractions of a second

_GRACE_SECONDS: Final = 2.0
"""How much longer than the server we wait for a statement: whose timeout hits first knows."""

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_LARGE_FLOAT: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?e\+\d+')


async def connect(config: PostgresConfig, url: SecretStr, *, seconds: float) -> Connection:
    """Connect.

    Args:
        config: Settings of the connection.
        url: Where to.
        seconds: Longest time this may take.

    Raises:
        ConnectionLost: Nobody listens there, the name does not resolve, or it took too long.
        DatabaseError: The server refused; ``error_code`` is its SQLSTATE.
    """
    connection = await dial(
        url,
        seconds=seconds,
        command_timeout=config.statement_timeout_seconds + _GRACE_SECONDS,
        statement_cache_size=config.statement_cache_size,
        server_settings=_settings(config),
    )
    try:
        await _set_codecs(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def dial(url: SecretStr, *, seconds: float, **options: Any) -> Connection:
    """Connect with asyncpg's ``options``, and say where to when it fails; see `connect`."""
    arguments = connect_arguments(url)
    where = f"{arguments['host']}:{arguments['port']}"
    try:
        return await _connect(**arguments, timeout=seconds, **options)
    except TimeoutError as error:
        raise ConnectionLost(
            f"PostgreSQL at {where} did not answer within {seconds:g} s", cause=error
        ) from error
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise ConnectionLost(
            f"PostgreSQL at {where} cannot be reached: {why}", cause=error
        ) from error
    except (*FOREIGN, ValueError) as error:
        raise translate(error, closed=getattr(error, "sqlstate", None) is None) from error


def _settings(config: PostgresConfig) -> dict[str, str]:
    if config.pgbouncer:  # it refuses others; PgBouncer documentation, ignore_startup_parameters
        return {"application_name": config.application_name}
    return {
        "application_name": config.application_name,
        "statement_timeout": milliseconds(config.statement_timeout_seconds),
        "idle_in_transaction_session_timeout": milliseconds(config.idle_transaction_seconds),
        "TimeZone": "UTC",
    }


def milliseconds(seconds: float) -> str:
    """Return a duration as PostgreSQL's settings have it; never 0, which would mean none."""
    return str(max(1, round(seconds * 1_000)))


async def _set_codecs(connection: Connection) -> None:
    # The forms that SQLAlchemy's dialect expects: text goes in, Python objects come out.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda text: b"\x01" + text.encode(),
        decoder=lambda data: loads(data[1:]),
    )
    await connection.set_type_codec(
        "json", schema="pg_catalog", format="binary", encoder=str.encode, decoder=loads
    )


def dump_json(value: object) -> str | None:
    """Return JSON text that ``jsonb`` gives back as the same Python value.

    It keeps numbers as decimals: 1e+23 would come back as an int, and not the nearest one.
    """
    if value is None:
        return None
    text = _encode(value)
    return _LARGE_FLOAT.sub(_spelled_out, text) if "e+" in text else text


def _spelled_out(match: re.Match[str]) -> str:
    found = match.group()
    return found if found[0] == '"' else f"{Decimal(found):f}.0"
