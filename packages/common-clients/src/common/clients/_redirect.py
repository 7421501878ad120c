"""Where a redirect leads, and what goes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from common.clients._config import HOST
from common.clients._errors import unusable

if TYPE_CHECKING:
    from common.clients._request import Outgoing
    from common.errors import UpstreamServiceError

_SCHEMES = ("http", "https")
# 300 and 304 are none: they name no single other place.
STATUSES = frozenset({301, 302, 303, 307, 308})
# To another origin go these and nothing else: any other header may be a credential.
HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "user-agent"})
_OF_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-location"})


@dataclass(frozen=True, slots=True, repr=False)
class Hop:
    """One request of a chain of redirects."""

    method: str
    url: httpx.URL
    headers: list[tuple[str, str]]
    content: bool


def follow(service: str, outgoing: Outgoing, hop: Hop, status: int, location: str | None) -> Hop:
    """Return the next request (RFC 9110, section 15.4).

    303 becomes GET, and so does POST after 301 and 302, as browsers do it. From ``https`` no way
    leads to ``http``. To another origin (scheme, host, port) neither a body nor any header goes
    except `HARMLESS` ones: no credentials, no cookies, no ids.

    Raises:
        UpstreamServiceError: If the redirect is not followed. It does not show the location.
    """
    call = outgoing.call
    try:
        target = hop.url.join(location or "").copy_with(fragment=None)
        port, host = target.port, target.host
    except (httpx.InvalidURL, ValueError, TypeError):
        raise refused(service, call, status, "to a place that cannot be read") from None
    if not location or not HOST.fullmatch(host) or target.scheme not in _SCHEMES:
        raise refused(service, call, status, "to a place that is none")
    if (port or 1) > 65535:
        raise refused(service, call, status, "to a port that is none")
    if target.userinfo:
        raise refused(service, call, status, "to a place with credentials in it")
    if hop.url.scheme == "https" and target.scheme != "https":
        raise refused(service, call, status, "from https to http")
    method = hop.method
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method = "GET"
    content = hop.content and method == hop.method
    same = (target.scheme, host, _port(target.scheme, port)) == (
        hop.url.scheme,
        hop.url.host,
        _port(hop.url.scheme, hop.url.port),
    )
    if content and not same:
        raise refused(service, call, status, "to another host, which must not get the body")
    if content and not outgoing.body.repeatable:
        raise refused(service, call, status, "and wants a body again that was sent already")
    if not same and method not in ("GET", "HEAD"):
        raise refused(service, call, status, f"{method} to another host")
    headers = [
        (name, value)
        for name, value in hop.headers
        if (same or name.lower() in HARMLESS) and (content or name.lower() not in _OF_BODY)
    ]
    return Hop(method, target, headers, content)


def refused(service: str, call: str, status: int, why: str) -> UpstreamServiceError:
    """Return the error for a redirect that is not followed."""
    return unusable(service, call, f"it redirects {why}", status=status)


def _port(scheme: str, port: int | None) -> int:
    return port or (443 if scheme == "https" else 80)
