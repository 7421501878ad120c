"""What handlers ask for: context, ids, the client's address."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from common.api._proxies import peer_of
from common.api._state import header_values, settings_of
from common.context import Context, current


async def get_request_context() -> Context:
    """Return the context of this request: `RequestContextDep`."""
    return current()


async def get_request_id() -> str:
    """Return this request's id: `RequestIdDep`.

    Raises:
        RuntimeError: If nothing gave it one.
    """
    return _known(current().request_id, "request_id")


async def get_correlation_id() -> str:
    """Return the id of the chain of requests: `CorrelationIdDep`.

    Raises:
        RuntimeError: If nothing gave it one.
    """
    return _known(current().correlation_id, "correlation_id")


async def get_client_ip(connection: HTTPConnection) -> str | None:
    """Return the client's address: `ClientIPDep`.

    It is the connection's peer, unless that is a trusted proxy; see `TrustedProxies`. ``None``
    if nobody who can be believed named one, as on a Unix socket.
    """
    return client_ip(connection)


def client_ip(connection: HTTPConnection) -> str | None:
    """Return the client's address, for code that is no dependency."""
    scope = connection.scope
    return settings_of(scope).proxies.client_ip(
        peer_of(scope), header_values(scope["headers"], b"x-forwarded-for")
    )


def _known(value: str | None, name: str) -> str:
    if value is None:
        raise RuntimeError(f"the context has no {name}: call install(app) when making the app")
    return value


RequestContextDep = Annotated[Context, Depends(get_request_context)]
RequestIdDep = Annotated[str, Depends(get_request_id)]
CorrelationIdDep = Annotated[str, Depends(get_correlation_id)]
ClientIPDep = Annotated[str | None, Depends(get_client_ip)]
