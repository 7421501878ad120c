"""The HTTP client of one other service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Unpack

from common.clients._auth import ServiceKey, ServiceToken
from common.clients._breaker import Breaker
from common.clients._bulkhead import Bulkhead
from common.clients._checks import chosen, count, finite, instance
from common.clients._config import ClientConfig, Limits, check_tls, parse_base_url
from common.clients._errors import ClientClosedError
from common.clients._guard import Guard
from common.clients._hedge import race
from common.clients._limit import Limit
from common.clients._request import Outgoing, RequestOptions
from common.clients._response import check_model
from common.clients._retry import Retry, run
from common.clients._stream import StreamedResponse
from common.clients._verbs import Verbs
from common.context import current, inject, operation, remaining
from common.errors import AppError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType, UnionType
    from typing import Self

    import httpx

    from common.clients._exchange import Exchange
    from common.clients._response import Response
    from common.context import Operation

T = TypeVar("T")
_Attempt: TypeAlias = "Callable[[Outgoing, list[tuple[str, str]], Limit, Operation], Awaitable[T]]"

REQUEST_TIMEOUT_HEADER = "X-Request-Timeout"
_CLOSING_SECONDS = 5.0


class ServiceClient(Verbs):
    """Calls one other service over HTTP.

    Every call has a time limit: ``timeout``, or the caller's own deadline
    (`common.context.deadline`) if that is nearer. Within it, from the outside to the inside:

    1. *Retry*: GET, HEAD, OPTIONS, PUT and DELETE, and POST and PATCH with an idempotency key,
       are repeated after failures that may pass; all methods, when no connection was made.
    2. *Bulkhead*: at most ``limits.max_concurrency`` tries at once.
    3. *Breaker*: no try while the service is known to fail.
    4. *Transport*: the request, its redirects, and the answer to its end.

    Every try is an operation ``http.client`` and carries the context's ids, the trace, and
    ``X-Request-Timeout``: the seconds left, since clocks of two machines differ.

    Use it as ``async with``, once; share it between tasks. Other tasks' calls under way when
    it is closed end with `ClientClosedError`.

    Args:
        service: Name of the other service.
        base_url: Where it is.
        auth: Credentials of this service.
        retry: The policy, whose budget all calls share; ``True``: ``Retry()``; ``False``: none.
        breaker: ``True``: ``Breaker(service)``; ``False``: none; or one that is shared.
        limits: Bounds; see `Limits`.
        timeout: Seconds; see `ClientConfig`.
        try_timeout: Seconds; see `ClientConfig`.
        connect_timeout: Seconds; see `ClientConfig`.
        follow_redirects: How many in a row; by default none.
        tls: For ``https``: whom to trust (authorities of one's own) and with which certificate
            to answer (mutual TLS), as of ``ssl.create_default_context``; ``None``: certifi's
            public authorities.
        transport: In place of sockets: an ``httpx.AsyncBaseTransport`` such as
            ``httpx.ASGITransport(app)``, or ``httpx.AsyncHTTPTransport`` with a proxy of its
            own. The client closes it.

    Raises:
        ValueError: If an option cannot work, naming it and the fix.

    Example:
        >>> import httpx
        >>> def answer(request: httpx.Request) -> httpx.Response:
        ...     return httpx.Response(200, json={"path": request.url.path})
        >>> async def main() -> None:
        ...     async with ServiceClient(
        ...         "billing",
        ...         base_url="https://billing.internal",
        ...         auth=ServiceKey("orders.secret"),
        ...         transport=httpx.MockTransport(answer),
        ...     ) as billing:
        ...         response = await billing.get("/accounts/{id}", path={"id": "a/1"})
        ...         print(response.status, response.json())
        >>> asyncio.run(main())
        200 {'path': '/accounts/a/1'}
    """

    def __init__(
        self,
        service: str,
        *,
        base_url: str,
        auth: ServiceKey | ServiceToken | None = None,
        retry: Retry | bool = True,
        breaker: Breaker | bool = True,
        limits: Limits | None = None,
        timeout: float = 10.0,
        try_timeout: float | None = None,
        connect_timeout: float = 2.0,
        follow_redirects: int = 0,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.config = ClientConfig(
            service=service,
            base_url=base_url,
            timeout=timeout,
            try_timeout=try_timeout,
            connect_timeout=connect_timeout,
            follow_redirects=follow_redirects,
            limits=Limits() if limits is None else limits,
        )
        if auth is not None and not isinstance(auth, ServiceKey | ServiceToken):
            raise ValueError("auth: give ServiceKey(...) or ServiceToken(...)")
        self._auth = auth
        self._retry = chosen(retry, Retry, Retry, "retry") or Retry(attempts=1)
        self.breaker = chosen(breaker, Breaker, lambda: Breaker(service), "breaker")
        self.bulkhead = Bulkhead(
            service, limit=self.config.limits.max_concurrency, queue=self.config.limits.max_queue
        )
        self._base = parse_base_url(base_url)
        self._facts: dict[str, object] = {
            "peer.service": service,
            "server.address": self._base.hostname or "",
            "server.port": self._base.port or (443 if self._base.scheme == "https" else 80),
        }
        if transport is not None and not hasattr(transport, "handle_async_request"):
            raise ValueError("transport: give an httpx.AsyncBaseTransport, or leave it out")
        if tls is not None:
            check_tls(tls, self._base.scheme, transport)
        self._tls = tls
        self._transport = transport
        self._exchange: Exchange | None = None
        self._running: set[Limit] = set()
        self._state: Literal["new", "opening", "open", "closed"] = "new"

    @classmethod
    def from_config(
        cls,
        config: ClientConfig,
        *,
        auth: ServiceKey | ServiceToken | None = None,
        retry: Retry | bool = True,
        breaker: Breaker | bool = True,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> Self:
        """Return a client of a service that is described by a `ClientConfig`.

        Raises:
            ValueError: If it is none, or an option cannot work, naming it and the fix.
        """
        instance("config", config, ClientConfig)
        return cls(
            config.service,
            base_url=config.base_url,
            auth=auth,
            retry=retry,
            breaker=breaker,
            limits=config.limits,
            timeout=config.timeout,
            try_timeout=config.try_timeout,
            connect_timeout=config.connect_timeout,
            follow_redirects=config.follow_redirects,
            tls=tls,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ClientClosedError(
                f"the client of {self.config.service} was used already: make a new one",
                service=self.config.service,
            )
        self._state = "opening"
        try:
            # Importing httpx and loading certificates takes some 100 ms.
            exchange = await asyncio.to_thread(_exchange, self.config, self._transport, self._tls)
            await exchange.transport.__aenter__()
        except BaseException:
            self._state = "closed"
            if self._transport is not None:
                await self._transport.aclose()
            raise
        if self._closed():  # meanwhile
            await exchange.transport.__aexit__(None, None, None)
            raise ClientClosedError(
                f"the client of {self.config.service} was closed", service=self.config.service
            )
        self._exchange = exchange
        self._state = "open"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End other tasks' calls with `ClientClosedError`, close all connections; idempotent."""
        if self._closed():
            return
        opening = self._state == "opening"
        self._state = "closed"
        exchange, self._exchange = self._exchange, None
        mine = asyncio.current_task()
        ended = [limit.stop() for limit in self._running if limit.task is not mine]
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                for each in ended:
                    await each.wait()
        except TimeoutError:
            pass  # someone does not let go: its connection is closed all the same
        finally:
            if exchange is not None:
                await exchange.transport.__aexit__(None, None, None)
            elif self._transport is not None and not opening:
                await self._transport.aclose()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        template: str,
        /,
        *,
        max_bytes: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[StreamedResponse]:
        """Send a request; the body of the answer is read within ``async with``.

        Until the answer begins, it is a call as any other. From then on, the caller's deadline
        ends the body of the ``async with`` statement; ``timeout`` bounds the wait for each part
        of the answer. It holds its place in the bulkhead to the end. Nothing is repeated.

        Args:
            method: See `request`.
            template: See `request`.
            max_bytes: Most bytes of the answer, after decompression; ``None``: no bound.
            **options: See `RequestOptions`; ``hedge`` is not for streams.

        Raises:
            AppError: As `request` does.
            DeadlineExceeded: When the caller's own deadline passed.
        """
        if max_bytes is not None:
            count("max_bytes", max_bytes)
        if "hedge" in options:
            raise ValueError("hedge= is not for streams: leave it out")
        outgoing = Outgoing(method, template, self._base, options)
        async with self._limit(outgoing, options) as limit, AsyncExitStack() as held:
            response, place = await self._repeated(outgoing, options, limit, self._opened)
            await held.enter_async_context(place)
            limit.only_inbound()
            exchange = self._open_exchange()
            streamed = StreamedResponse(
                response.status_code,
                exchange.headers(response),
                lambda: exchange.pieces(outgoing, response, max_bytes),
                service=self.config.service,
                call=outgoing.call,
                check_open=self._open_exchange,
            )
            held.callback(streamed.leave)
            yield streamed

    async def _send(
        self, method: str, template: str, options: RequestOptions, into: type[T] | UnionType | None
    ) -> T | Response:
        outgoing = Outgoing(method, template, self._base, options)
        if into is not None:
            check_model(into)  # before anything is sent
        async with self._limit(outgoing, options) as limit:
            response = await self._repeated(outgoing, options, limit, self._whole)
        model: Any = into
        answer: T | Response = response if into is None else response.decode(model)
        return answer

    def __repr__(self) -> str:
        return f"ServiceClient({self.config.service!r}, {self._state})"

    def _closed(self) -> bool:
        return self._state == "closed"

    def _limit(self, outgoing: Outgoing, options: RequestOptions) -> Limit:
        self._open_exchange()
        seconds = options.get("timeout", self.config.timeout)
        finite("timeout", seconds, above=0)
        return Limit(self.config.service, outgoing.call, seconds, self._running)

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            was = "closed" if self._closed() else "not opened: use it with 'async with'"
            raise ClientClosedError(
                f"the client of {self.config.service} is {was}", service=self.config.service
            )
        return self._exchange

    async def _repeated(
        self, outgoing: Outgoing, options: RequestOptions, limit: Limit, attempt: _Attempt[T]
    ) -> T:
        policy, hedge = self._retry, options.get("hedge")

        async def once() -> T:
            return await self._reported(outgoing, limit, attempt)

        async def hedged() -> T:
            assert hedge is not None  # noqa: S101
            if policy.budget is None:
                hedge.budget.deposit()  # else it is the one that `run` keeps
            return await race(once, hedge, policy.budget or hedge.budget)

        return await run(
            once if hedge is None else hedged,
            policy,
            lambda error: outgoing.repeatable and not limit.stopped and policy.wants(error),
            outgoing.call,
        )

    async def _reported(self, outgoing: Outgoing, limit: Limit, attempt: _Attempt[T]) -> T:
        trace = current().trace
        facts = {
            **self._facts,
            "http.request.method": outgoing.method,
            "url.template": outgoing.template,
        }
        if outgoing.tries:
            facts["http.request.resend_count"] = outgoing.tries
        outgoing.tries += 1
        outgoing.unsent = True
        if limit.over:
            raise limit.reason()
        with operation("http.client", outgoing.call, facts) as op:
            if self.breaker:
                self.breaker.check()  # before there is any waiting for a place
            headers: list[tuple[str, str]] = []
            if self._auth:
                headers.append(await self._auth.header_field())
            context = current()
            if context.trace is not None and context.trace is trace:
                # No observer made a span: the other side's parent is one of this try all the same.
                context = context.replace(trace=context.trace.child())
            inject(headers, context=context, raw=False)
            try:
                return await attempt(outgoing, headers, limit, op)
            except AppError as error:
                if op.recording and "upstream_status" in error.details:
                    op.set({"http.response.status_code": error.details["upstream_status"]})
                raise

    async def _whole(
        self, outgoing: Outgoing, headers: list[tuple[str, str]], limit: Limit, op: Operation
    ) -> Response:
        async with self.bulkhead:
            exchange = self._open_exchange()
            async with self._guarded(limit, outgoing):
                opened = await exchange.open(outgoing, self._timed(headers), _idle())
                most = self.config.limits.max_response_bytes
                response = await exchange.read(outgoing, opened, most)
        op.set({"http.response.status_code": response.status})
        return response

    async def _opened(
        self, outgoing: Outgoing, headers: list[tuple[str, str]], limit: Limit, op: Operation
    ) -> tuple[httpx.Response, AsyncExitStack]:
        async with AsyncExitStack() as held:
            await held.enter_async_context(self.bulkhead)
            exchange = self._open_exchange()
            async with self._guarded(limit, outgoing):
                # `timeout` is for its beginning: told of it, the other side would end it.
                if limit.callers is not None:
                    headers = _told(headers, limit.callers)
                opened = await exchange.open(outgoing, headers, limit.seconds)
            held.push_async_callback(opened.aclose)
            op.set({"http.response.status_code": opened.status_code})
            return opened, held.pop_all()

    def _guarded(self, limit: Limit, outgoing: Outgoing) -> Guard:
        return Guard(self.config, self.breaker, limit, outgoing)

    def _timed(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        left = remaining() or 0.0
        one = self.config.try_timeout
        return _told(headers, left if one is None else min(left, one))


def _exchange(
    config: ClientConfig, transport: httpx.AsyncBaseTransport | None, tls: ssl.SSLContext | None
) -> Exchange:
    from common.clients._exchange import Exchange  # noqa: PLC0415 - imports httpx

    return Exchange(config, transport, tls)


def _idle() -> float:
    # The limit ends the call. httpx's own timers must not fire in the same moment.
    return (remaining() or 0.0) + 1.0


def _told(headers: list[tuple[str, str]], seconds: float) -> list[tuple[str, str]]:
    return [*headers, (REQUEST_TIMEOUT_HEADER, f"{max(seconds, 0.001):.3f}")]
