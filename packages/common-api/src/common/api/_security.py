"""Headers that tell browsers to be careful, and to whom they may show answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from common.api._proxies import TrustedProxies, base_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXPOSED = (
    "ETag", "Idempotency-Replayed", "Location", "RateLimit-Limit", "RateLimit-Remaining",
    "RateLimit-Reset", "Retry-After", "X-Correlation-ID", "X-Request-ID", "traceparent",
)  # fmt: skip

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class SecurityHeadersMiddleware:
    """Adds the headers that OWASP's REST cheat sheet wants on an API's answers.

    ``X-Content-Type-Options: nosniff``, ``X-Frame-Options: DENY``, ``Referrer-Policy``,
    ``Cross-Origin-Resource-Policy``; a ``Content-Security-Policy`` that allows nothing, but
    not on HTML, such as the documentation pages; over HTTPS also
    ``Strict-Transport-Security``. What a handler sets itself stays as it is.

    Args:
        app: What it wraps.
        hsts: Seconds for ``Strict-Transport-Security``; 0 leaves it out.
        proxies: Whose ``X-Forwarded-Proto`` counts.
    """

    def __init__(
        self, app: ASGIApp, *, hsts: int = 31_536_000, proxies: TrustedProxies | None = None
    ) -> None:
        self.app = app
        self._hsts = (b"strict-transport-security", f"max-age={hsts}".encode()) if hsts else None
        self._proxies = proxies or TrustedProxies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        secure = self._hsts is not None and base_url(scope, self._proxies).startswith("https:")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                given = {name.lower(): value for name, value in headers}
                wanted = list(_ALWAYS)
                if not given.get(b"content-type", b"").startswith(b"text/html"):
                    wanted.append(_POLICY)
                if secure and self._hsts is not None:
                    wanted.append(self._hsts)
                headers += [pair for pair in wanted if pair[0] not in given]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, sending)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which pages of other origins may call this service from a browser.

    Attributes:
        origins: Such as ``("https://app.example.com",)``; ``("*",)`` for everybody.
        credentials: Whether cookies and ``Authorization`` come along; then the origins must be
            named (Fetch standard, "CORS protocol and credentials").
        methods: Allowed methods.
        headers: Allowed request headers, besides those that are always allowed.
        max_age: Seconds that browsers may keep the answer to a preflight.

    Raises:
        ValueError: If everybody is allowed with credentials, or an origin is none.
    """

    origins: Sequence[str]
    credentials: bool = False
    methods: Sequence[str] = ("GET", "POST", "PUT", "PATCH", "DELETE")
    headers: Sequence[str] = (
        "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match",
        "X-Correlation-ID", "X-Request-ID", "traceparent", "tracestate",
    )  # fmt: skip
    max_age: int = 600

    def __post_init__(self) -> None:
        if isinstance(self.origins, str):
            raise TypeError(f"give a list of origins, as in [{self.origins!r}]")
        if "*" in self.origins and self.credentials:
            raise ValueError("credentials need named origins: with '*' any page could use them")
        for origin in self.origins:
            if origin != "*" and (
                not origin.startswith(("http://", "https://")) or origin.count("/") != 2
            ):
                raise ValueError(f"{origin!r} is no origin: write 'https://app.example.com'")

    def middleware(self) -> Middleware:
        """Return Starlette's middleware with these settings; ids are exposed to pages."""
        return Middleware(
            CORSMiddleware,
            allow_origins=list(self.origins),
            allow_credentials=self.credentials,
            allow_methods=list(self.methods),
            allow_headers=list(self.headers),
            expose_headers=list(EXPOSED),
            max_age=self.max_age,
        )
