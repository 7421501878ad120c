"""One short method for each HTTP method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from types import UnionType

    from common.clients._request import RequestOptions
    from common.clients._response import Response

T = TypeVar("T")


class Verbs(ABC):
    """``get(…)`` is ``request("GET", …)``, and so on."""

    @abstractmethod
    async def _send(
        self, method: str, template: str, options: RequestOptions, into: type[T] | UnionType | None
    ) -> T | Response: ...

    @overload
    async def request(
        self, method: str, template: str, /, **options: Unpack[RequestOptions]
    ) -> Response: ...
    @overload
    async def request(
        self, method: str, template: str, /, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def request(
        self, method: str, template: str, /, *, into: UnionType, **options: Unpack[RequestOptions]
    ) -> Any: ...
    async def request(
        self,
        method: str,
        template: str,
        /,
        *,
        into: type[T] | UnionType | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | Response:
        """Send a request and return the answer, read to its end.

        Args:
            method: ``"GET"``, ``"POST"`` and so on.
            template: Path below the base URL, with fields: ``"/calls/{id}"``. It names the call
                in errors and operations, so it must not contain values.
            into: Type the answer is decoded into: a pydantic model, or what pydantic knows. What
                comes out of a union such as ``Order | None`` has no type of its own until
                annotations can take one: say it, ``order: Order | None = await client.get(…)``.
            **options: See `RequestOptions`.

        Raises:
            ValueError: If the call is written wrongly.
            TypeError: Likewise, by a value of a wrong type.
            ValidationError: If a value cannot be sent as what it is meant for.
            AppError: As of `common.errors.classify_http` for statuses from 300 on;
                `UpstreamServiceError` for what cannot be read or decoded, and broken
                connections; `ServiceUnavailableError` if there is no connection;
                `RequestTimeoutError`, `CircuitOpenError`, `BulkheadFullError`,
                `ClientClosedError`. None of them shows a URL, credentials, or the answer.
            DeadlineExceeded: When the caller's own deadline passed.
        """
        return await self._send(method, template, options, into)

    @overload
    async def get(self, template: str, /, **options: Unpack[RequestOptions]) -> Response: ...
    @overload
    async def get(
        self, template: str, /, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def get(
        self, template: str, /, *, into: UnionType, **options: Unpack[RequestOptions]
    ) -> Any: ...
    async def get(
        self,
        template: str,
        /,
        *,
        into: type[T] | UnionType | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | Response:
        """Read. See `request`."""
        return await self._send("GET", template, options, into)

    @overload
    async def post(self, template: str, /, **options: Unpack[RequestOptions]) -> Response: ...
    @overload
    async def post(
        self, template: str, /, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def post(
        self, template: str, /, *, into: UnionType, **options: Unpack[RequestOptions]
    ) -> Any: ...
    async def post(
        self,
        template: str,
        /,
        *,
        into: type[T] | UnionType | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | Response:
        """Create, or do something; repeated only with ``idempotency_key=``. See `request`."""
        return await self._send("POST", template, options, into)

    @overload
    async def put(self, template: str, /, **options: Unpack[RequestOptions]) -> Response: ...
    @overload
    async def put(
        self, template: str, /, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def put(
        self, template: str, /, *, into: UnionType, **options: Unpack[RequestOptions]
    ) -> Any: ...
    async def put(
        self,
        template: str,
        /,
        *,
        into: type[T] | UnionType | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | Response:
        """Replace. See `request`."""
        return await self._send("PUT", template, options, into)

    @overload
    async def patch(self, template: str, /, **options: Unpack[RequestOptions]) -> Response: ...
    @overload
    async def patch(
        self, template: str, /, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def patch(
        self, template: str, /, *, into: UnionType, **options: Unpack[RequestOptions]
    ) -> Any: ...
    async def patch(
        self,
        template: str,
        /,
        *,
        into: type[T] | UnionType | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | Response:
        """Change; repeated only with ``idempotency_key=``. See `request`."""
        return await self._send("PATCH", template, options, into)

    @overload
    async def delete(self, template: str, /, **options: Unpack[RequestOptions]) -> Response: ...
    @overload
    async def delete(
        self, template: str, /, *, into: type[T], **options: Unpack[RequestOptions]
    ) -> T: ...
    @overload
    async def delete(
        self, template: str, /, *, into: UnionType, **options: Unpack[RequestOptions]
    ) -> Any: ...
    async def delete(
        self,
        template: str,
        /,
        *,
        into: type[T] | UnionType | None = None,
        **options: Unpack[RequestOptions],
    ) -> T | Response:
        """Delete. See `request`."""
        return await self._send("DELETE", template, options, into)
