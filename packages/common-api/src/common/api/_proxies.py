"""Which peers may speak for the client, and what they say."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

MAX_HOPS = 32
_HOST = re.compile(r"[A-Za-z0-9._~-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]{1,5}|\[(?P<v6>[^\]]+)\](:[0-9]{1,5})?")


class TrustedProxies:
    """The reverse proxies in front of this service.

    Only what a trusted peer says is believed, and in a list only what trusted hops appended:
    ``X-Forwarded-For`` is counted from the right, and the first address that is no trusted
    proxy is the client. What stands left of it was written by the client itself. RFC 7239's
    ``Forwarded`` is not read: a proxy that does not know it passes a client's forgery on.

    Args:
        networks: Addresses and networks, such as ``"10.0.0.0/8"``; ``"unix"`` for peers on a
            Unix socket, which have no address. None by default: the peer is the client.

    Raises:
        ValueError: If one is neither.

    Example:
        >>> proxies = TrustedProxies(["10.0.0.0/8"])
        >>> proxies.client_ip("10.0.0.1", ["6.6.6.6, 203.0.113.9, 10.0.0.2"])
        '203.0.113.9'
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        if isinstance(networks, str):
            raise TypeError(f"give a list of networks, as in [{networks!r}]")
        self._unix = False
        found = []
        for text in networks:
            if text == "unix":
                self._unix = True
                continue
            try:
                found.append(ip_network(text))
            except ValueError as error:
                raise ValueError(
                    f"{text!r} is no network ({error}): write '10.0.0.0/8', an address, or 'unix'"
                ) from None
        self._networks = tuple(found)

    def trusts(self, peer: str | None) -> bool:
        """Tell whether a peer's word counts; ``None`` is a peer without an address."""
        if peer is None:
            return self._unix
        address = parse_address(peer) if self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def client_ip(self, peer: str | None, forwarded: Iterable[str]) -> str | None:
        """Return the client's address.

        Args:
            peer: Address of the other end of the connection.
            forwarded: Values of all ``X-Forwarded-For`` headers, in order.

        Returns:
            The address in its shortest form, an IPv4 address within IPv6 as IPv4. ``None`` if
            nobody who can be believed named one.
        """
        address = None if peer is None else parse_address(peer)
        if (peer is not None or not self._unix) and not self._trusts(address):
            return None if address is None else str(address)
        hops = ",".join(forwarded).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        for hop in reversed(hops):
            found = parse_address(hop.strip())
            if found is None:
                break
            address = found
            if not self._trusts(address):
                break
        return None if address is None else str(address)

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, with or without a port; ``None`` if it is something else."""
    if len(text) > 64:
        return None
    matched = _PORT.fullmatch(text)
    if matched:
        text = matched["v4"] or matched["v6"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def peer_of(scope: Scope) -> str | None:
    """Return the address of the other end of the connection, if it has one."""
    client = scope.get("client")
    return client[0] if client else None


def base_url(scope: Scope, proxies: TrustedProxies) -> str:
    """Return scheme and host by which the client reached this service; empty if unknown.

    ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` of a trusted peer win, the rightmost value of
    each, since that one was written last. A host with characters no host name has is dropped.
    """
    scheme, host = scope.get("scheme", "http"), ""
    trusted = proxies.trusts(peer_of(scope))
    hosts: list[str] = []
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value.decode("latin-1"))
        elif trusted and name == b"x-forwarded-proto":
            last = value.decode("latin-1").rpartition(",")[2].strip().lower()
            scheme = last if last in ("http", "https") else scheme
        elif trusted and name == b"x-forwarded-host":
            last = value.decode("latin-1").rpartition(",")[2].strip()
            host = last if _HOST.fullmatch(last) else host
    if not host and len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
        host = hosts[0]
    return f"{scheme}://{host}" if host else ""
