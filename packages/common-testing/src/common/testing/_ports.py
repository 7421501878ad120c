"""Ports that stay ours until we are done."""

import contextlib
from collections.abc import Generator

from common.testing import _guard
from common.testing._errors import ServerError


@contextlib.contextmanager
def reserve_port(port: int = 0) -> Generator[int]:
    """Keep a TCP port of 127.0.0.1 for as long as the block runs.

    On Linux the port is really held: nobody else gets it, while a server that sets
    SO_REUSEADDR (asyncio, uvicorn and nearly all others do) can listen on it, stop and
    listen again. On other systems it is only chosen, and a race is possible.

    Args:
        port: The port wanted; 0 lets the kernel choose.

    Raises:
        ServerError: The port is taken, not allowed to us, or no port.

    >>> with reserve_port() as port:
    ...     port > 1024
    True
    """
    check_port(port)
    try:
        holder = _guard.bind_port(port)
    except OSError as error:
        raise port_error(port, error.strerror or str(error)) from error
    try:
        number: int = holder.getsockname()[1]
        if not _guard.LINUX:
            holder.close()
        yield number
    finally:
        holder.close()


def check_port(port: int) -> None:
    """Refuse a number that is no TCP port; 0, which lets the kernel choose, is fine.

    Raises:
        ServerError: It is not between 0 and 65535.
    """
    if not 0 <= port < 65536:
        raise ServerError(f"{port} is not a port: choose one from 1 to 65535 (0 lets us choose)")


def port_error(port: int, reason: str) -> ServerError:
    """The message for a port that we cannot have."""
    return ServerError(
        f"port {port} of 127.0.0.1 cannot be used ({reason}): "
        "stop what listens on it, or choose another port (0 or none lets us choose)"
    )
