"""The host names that this service answers to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from common.api._proxies import TrustedProxies, peer_of
from common.api._state import header_values
from common.api._views import HTTPError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

_HOST = re.compile(r"(?P<name>[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?")
_PATTERN = re.compile(r"(\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\]")


class TrustedHostsMiddleware:
    """Refuses requests to other hosts with a 400.

    A forged ``Host`` would end up in links, password mails and caches. Of a trusted proxy also
    ``X-Forwarded-Host`` is checked. `ProbesMiddleware` is asked first, since probes come
    to an address.

    Args:
        app: What it wraps.
        hosts: Names without port, such as ``"api.example.com"``; ``"*.example.com"`` are its
            subdomains.
        proxies: Whose ``X-Forwarded-Host`` counts.

    Raises:
        ValueError: If one cannot be a host, or there is none.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], proxies: TrustedProxies | None = None
    ) -> None:
        if isinstance(hosts, str):
            raise TypeError(f"give a list of hosts, as in [{hosts!r}]")
        names = [host.lower() for host in hosts]
        for name in names:
            if not _PATTERN.fullmatch(name):
                raise ValueError(f"{name!r} is no host: write 'api.example.com' or '*.example.com'")
        if not names:
            raise ValueError("hosts is empty: name at least one, or leave it out")
        self.app = app
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*"))
        self._proxies = proxies or TrustedProxies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            hosts = header_values(scope["headers"], b"host")
            if len(hosts) != 1 or not self._allows(hosts[0]):
                raise HTTPError(400, "HOST_INVALID", "This service does not answer to that host")
            forwarded = header_values(scope["headers"], b"x-forwarded-host")
            if forwarded and self._proxies.trusts(peer_of(scope)):
                last = ",".join(forwarded).rpartition(",")[2].strip()
                if not self._allows(last):
                    raise HTTPError(
                        400, "HOST_INVALID", "This service does not answer to that host"
                    )
        await self.app(scope, receive, send)

    def _allows(self, host: str) -> bool:
        matched = _HOST.fullmatch(host.lower())
        if matched is None:
            return False
        name = matched["name"].removesuffix(".")
        return name in self._names or name.endswith(self._suffixes)
