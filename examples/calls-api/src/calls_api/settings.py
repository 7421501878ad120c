"""What the service reads from its environment."""

import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Addresses of the servers, and where to listen."""

    database_url: str
    nats_url: str
    redis_url: str
    host: str = "127.0.0.1"
    port: int = 8000

    @classmethod
    def from_environment(cls) -> Self:
        """Read CALLS_DATABASE_URL, CALLS_NATS_URL, CALLS_REDIS_URL, CALLS_HOST and CALLS_PORT.

        Raises:
            SystemExit: a required variable is missing; the message names all that are.
        """
        required = ("CALLS_DATABASE_URL", "CALLS_NATS_URL", "CALLS_REDIS_URL")
        if missing := [name for name in required if not os.environ.get(name)]:
            raise SystemExit(f"calls-api: set {', '.join(missing)}")
        return cls(
            database_url=os.environ["CALLS_DATABASE_URL"],
            nats_url=os.environ["CALLS_NATS_URL"],
            redis_url=os.environ["CALLS_REDIS_URL"],
            host=os.environ.get("CALLS_HOST", cls.host),
            port=_port(os.environ.get("CALLS_PORT") or str(cls.port)),
        )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise SystemExit(f"calls-api: CALLS_PORT={text} is no port: use 1 to 65535")
    return int(text)
