"""What a client is told once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from common.clients._checks import count, finite, fits, instance

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # RFC 1035, section 2.3.4
HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?|[0-9a-f]{{0,4}}:[0-9a-f:.]+")
_ODD = re.compile(r"[^\x21-\x7e]|\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one client.

    Args:
        max_concurrency: Requests under way at once, which is also the number of connections.
        max_queue: Calls that may wait for one of those to end.
        max_response_bytes: Of a whole response, after decompression. Streams have no bound
            unless one is given with the call.
        max_idle_connections: Connections kept for later.
        idle_seconds: How long they are kept. Less than what servers allow (uvicorn: 5 s, common
            load balancers: 60 s), or requests meet connections that are just being closed.

    Raises:
        ValueError: If a number is out of range.
    """

    max_concurrency: int = 100
    max_queue: int = 1000
    max_response_bytes: int = 10 * 1024 * 1024
    max_idle_connections: int = 20
    idle_seconds: float = 4.0

    def __post_init__(self) -> None:
        count("max_concurrency", self.max_concurrency)
        count("max_queue", self.max_queue, least=0)
        count("max_response_bytes", self.max_response_bytes)
        count("max_idle_connections", self.max_idle_connections, least=0)
        finite("idle_seconds", self.idle_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What a `ServiceClient` is told about the service it calls.

    Args:
        service: The service's name, in errors, operations and the breaker.
        base_url: ``http`` or ``https``, a host, perhaps a port and a path; nothing else.
            No path of a call leaves it; a redirect may.
        timeout: Seconds for a whole call: queue, all tries and the pauses between them. A
            nearer deadline of the caller counts in its place.
        try_timeout: Seconds for one try; ``None``: what is left of ``timeout``.
        connect_timeout: Seconds to connect.
        follow_redirects: How many redirects in a row are followed; 0: they are errors.
        limits: See `Limits`.

    Raises:
        ValueError: Naming the field and the fix.
    """

    service: str
    base_url: str
    timeout: float = 10.0
    try_timeout: float | None = None
    connect_timeout: float = 2.0
    follow_redirects: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not fits(_NAME, self.service):
            raise ValueError(
                f"service={self.service!r}: give a name of letters, digits, '.', '_' and '-'"
            )
        parse_base_url(self.base_url)
        finite("timeout", self.timeout, above=0)
        if self.try_timeout is not None:
            finite("try_timeout", self.try_timeout, above=0)
        finite("connect_timeout", self.connect_timeout, above=0)
        count("follow_redirects", self.follow_redirects, least=0)
        instance("limits", self.limits, Limits)


def parse_base_url(url: object) -> SplitResult:
    """Return the parts of a base URL.

    Raises:
        ValueError: Saying what is wrong, without showing what may be a secret.
    """
    example = "such as 'https://billing.internal:8443/api'"
    if not isinstance(url, str) or _ODD.search(url):
        raise ValueError(f"base_url: give an absolute URL without spaces, {example}")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError(f"base_url: its host or port cannot be read; give one {example}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"base_url: begin with http:// or https://, {example}")
    if "@" in parts.netloc:
        raise ValueError("base_url: it has credentials; remove them, and give auth=")
    if not host or port == 0 or not HOST.fullmatch(host):
        raise ValueError(f"base_url: its host or port is missing or malformed; give one {example}")
    if "?" in url or "#" in url:
        raise ValueError("base_url: leave out the query and the fragment; give params= with calls")
    if {"%2e", "%2f", "%5c"} & set(re.findall("%..", url.lower())) or {".", ".."} & set(
        parts.path.split("/")
    ):
        raise ValueError("base_url: its path has '.', '..' or an encoded '/': write it out")
    return parts


def check_tls(tls: object, scheme: str, transport: object) -> None:
    """Refuse what is no TLS context, or one that would never be used.

    Raises:
        ValueError: Saying what to give in its place.
    """
    import ssl  # noqa: PLC0415 - not every client needs it

    if not isinstance(tls, ssl.SSLContext):
        raise ValueError("tls: give an ssl.SSLContext, as of ssl.create_default_context(cafile=…)")  # noqa: TRY004 - as all other fields
    if transport is not None:
        raise ValueError("tls: the given transport= does not use it; give it to that one")
    if scheme != "https":
        raise ValueError("tls: base_url begins with http://, so it would never be used")
