"""Speaks SQL to PostgreSQL through psql, so that no driver is needed."""

import os
import subprocess
from urllib.parse import unquote

from common.testing._binaries import postgres_bin
from common.testing._errors import ServerError


def clean_environment() -> dict[str, str]:
    """This process's environment without what would speak to PostgreSQL's programs."""
    # A user's PGHOST, PGOPTIONS, locale and the like are for other servers.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def psql_command(url: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment for psql; the password is in the environment, unseen by others.

    Raises:
        ServerError: There is no psql.
    """
    scheme, _, rest = url.partition("://")
    credentials, at, address = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    environment = clean_environment()
    if colon:
        environment["PGPASSWORD"] = unquote(password)
    environment["PGCONNECT_TIMEOUT"] = "10"
    plain = f"{scheme.partition('+')[0]}://{user}{at}{address}"
    command = [
        str(postgres_bin() / "psql"),
        "-X",
        "-q",
        "-A",
        "-t",
        "-F",
        "\t",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    return [*command, plain], environment


def psql(url: str, sql: str) -> str:
    """Run SQL with psql, blocking; see `PostgresServer.execute`."""
    command, environment = psql_command(url)
    done = subprocess.run(  # noqa: S603
        command, input=sql, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(done.stderr.strip() or f"psql ended with return code {done.returncode}")
    return done.stdout.rstrip("\n")
