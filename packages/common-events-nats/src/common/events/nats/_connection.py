"""The connection: opened within a time limit, kept for ever, closed once."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import MessageBusError, ValidationError
from common.events.core._errors import BrokerUnavailable, MessageTooLarge, TransportClosed
from common.events.nats._client import RawClient, Sink
from common.events.nats._config import NatsConfig
from common.events.nats._denied import Denied, forbidden, parse_denied
from common.events.nats._dial import describe, dial, unavailable
from common.events.nats._errors import NatsPermissionError, NatsTimeout, NoResponders
from common.events.nats._headers import command, parse_headers, parse_status
from nats import errors

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
_ANSWERS = 100_000  # most requests waiting for an answer
_SUBJECT = re.compile(r"[^\s\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a request."""

    subject: str
    data: bytes
    raw_headers: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers by name."""
        return parse_headers(self.raw_headers)


class Subscription:
    """A subscription; `close` ends it."""

    __slots__ = ("_connection", "sid", "subject")

    def __init__(self, connection: "Connection", sid: int, subject: str) -> None:
        self._connection = connection
        self.sid = sid
        self.subject = subject

    async def close(self, *, flush: bool = False, timeout: float = 2.0) -> None:  # noqa: ASYNC109
        """End it. Idempotent.

        Args:
            flush: Let what the server had already sent still arrive.
            timeout: Seconds for that.
        """
        await self._connection.unsubscribe(self, flush=flush, timeout=timeout)


class Connection:
    """A connection to a NATS server or cluster.

    It is made anew whenever it is lost, for as long as it takes; only `close` ends it. After that,
    and after a failure to open it, it can be opened again.

    Attributes:
        reconnects: Times it was made anew.
        last_error: What went wrong last; never with credentials.
    """

    def __init__(self, config: NatsConfig) -> None:
        self.config = config
        self.reconnects = 0
        self.last_error: str | None = None
        self._client: RawClient | None = None
        self._closed = False
        self._up = asyncio.Event()
        self._opening = asyncio.Lock()
        self._on_up: list[Callable[[], None]] = []
        self._on_down: list[Callable[[], None]] = []
        self._on_denied: list[Callable[[Denied], None]] = []
        self._answers: dict[bytes, tuple[str, asyncio.Future[Reply]]] = {}
        self._deaf = False
        self._inbox = b""
        self._token = 0
        self._logged = 0.0

    # State

    @property
    def nc(self) -> RawClient:
        """nats-py's client.

        Raises:
            TransportClosed: Not open.
        """
        return self._check_open()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def connected(self) -> bool:
        """Whether what is sent now goes out."""
        return self._up.is_set() and not self._closed

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and body together that the server takes."""
        return self.nc.max_payload

    async def wait_connected(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until there is a connection.

        Raises:
            BrokerUnavailable: Not within ``timeout`` seconds.
            TransportClosed: Closed, also meanwhile.
        """
        self._check_open()
        if not self._up.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._up.wait()
            except TimeoutError:
                raise self.unavailable() from None
            self._check_open()

    def _check_open(self) -> RawClient:
        if self._client is None or self._closed:
            raise TransportClosed("the NATS connection is not open: enter it with async with")
        return self._client

    def unavailable(self) -> BrokerUnavailable:
        """Return the error that says that there is no connection, and why."""
        return unavailable(self.config, self.last_error)

    def on_up(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function whenever the connection was made anew; return one that ends this."""
        return _added(self._on_up, listener)

    def on_down(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function whenever the connection is lost or closed; return one that ends this."""
        return _added(self._on_down, listener)

    def on_denied(self, listener: Callable[[Denied], None]) -> Callable[[], None]:
        """Call a function when permissions forbid a subject; return one that ends this."""
        return _added(self._on_denied, listener)

    @property
    def server_id(self) -> str:
        """Of the server at the other end; another one when it was started again."""
        return self.nc.server_id

    @property
    def has_jetstream(self) -> bool:
        """Whether the server at the other end is one of those that JetStream is asked of."""
        domain = self.nc.domain
        return domain is not None and self.config.domain in (None, domain)

    # The client's listener

    def connecting(self) -> None:
        """Take note that a server is about to say what it forbids; it may not have, before."""
        self._deaf = False

    def up(self) -> None:
        """Take note that the connection is there."""
        first = self._client is None
        if not first:
            self.reconnects += 1
            log.info("Connected to NATS again", extra={"reconnects": self.reconnects})
        self.last_error = None
        self._up.set()
        for listener in tuple(self._on_up):
            listener()

    def down(self) -> None:
        """Take note that the connection is lost."""
        self._up.clear()
        if not self._closed:
            log.warning("Connection to NATS lost; connecting again")
        for listener in tuple(self._on_down):
            listener()

    def trouble(self, error: Exception) -> None:
        """Take note of an error; logged at most once a second."""
        self.last_error = describe(error)
        if time.monotonic() - self._logged >= 1:
            self._logged = time.monotonic()
            log.warning("NATS: %s", self.last_error)

    async def _error(self, error: Exception) -> None:
        if denied := parse_denied(str(error)):
            self._refuse(denied)
            for listener in tuple(self._on_denied):
                listener(denied)
        if not isinstance(error, errors.UnexpectedEOF) or self.last_error is None:
            self.trouble(error)

    def _refuse(self, denied: Denied) -> None:
        """End requests that would wait in vain."""
        if denied.hearing(f"{self._inbox.decode()}.*"):
            self._deaf = True
        for subject, future in self._answers.values():
            if future.done():
                continue
            if self._deaf:
                future.set_exception(self._unheard())
            elif denied.sending(subject):
                future.set_exception(forbidden("publish to", subject))

    def _unheard(self) -> NatsPermissionError:
        return forbidden("subscribe to", f"{self.config.inbox_prefix}.>")

    # Opening and closing

    async def open(self) -> None:
        """Connect. Opening twice is the same as once.

        Raises:
            NatsAuthenticationError: The server refuses the credentials.
            BrokerUnavailable: Not reached in time.
            TransportClosed: It was closed meanwhile.
        """
        async with self._opening:
            if self._client is not None and not self._closed:
                return
            self._closed = False
            self._up = asyncio.Event()  # of the event loop that runs now
            client = await dial(self.config, self, self._error)
            self._up.set()
            self._client = client
            try:
                self._inbox = self.new_inbox().encode()
                await self.subscribe(f"{self._inbox.decode()}.*", self._answer)
            except BaseException:
                self._client = None
                self._up.clear()
                await client.close_within(_CLOSE_SECONDS)
                raise

    async def close(self) -> None:
        """Close. Idempotent; requests that wait for an answer fail."""
        lost = self._client is not None and not self._closed and not self._up.is_set()
        self._closed = True
        self._up.clear()
        if lost:
            self.down()  # listeners know that it is lost, and not that it stays so
        async with self._opening:
            client, self._client = self._client, None
            if client is None:
                return
            try:
                await client.close_within(_CLOSE_SECONDS)
            finally:
                self._up.set()  # nobody waits for a connection that never comes
                for _, future in self._answers.values():
                    if not future.done():
                        future.set_exception(TransportClosed("the NATS connection was closed"))
                self._answers.clear()

    # Messages

    def new_inbox(self) -> str:
        """Return a unique subject for answers."""
        return self.nc.new_inbox()

    async def subscribe(self, subject: str, sink: Sink, *, queue: str = "") -> Subscription:
        """Hand messages of a subject to a function, also after reconnecting.

        Args:
            subject: Wildcards are allowed.
            sink: Called with ``(subject, reply, data, headers)``, all bytes, the headers as they
                came or ``None`` (see `parse_headers`, `parse_status`). It must not block.
            queue: Name of a queue group.
        """
        return Subscription(self, await self.nc.listen(subject, sink, queue=queue), subject)

    async def unsubscribe(
        self,
        subscription: Subscription,
        *,
        flush: bool = False,
        timeout: float = 2.0,  # noqa: ASYNC109
    ) -> None:
        """End a subscription: see `Subscription.close`."""
        nc = self._client
        if nc is None or self._closed or subscription.sid not in nc.sinks:
            return
        try:
            nc.write(f"UNSUB {subscription.sid}\r\n".encode())
            if flush and self.connected:
                try:
                    await self.flush(timeout)
                except MessageBusError:
                    log.debug("No answer while unsubscribing")
        finally:
            nc.forget(subscription.sid)

    def publish(self, subject: str, data: bytes = b"", *, reply: str = "") -> bool:
        """Send a message without headers and without waiting.

        The subject is not checked: it comes from the server, or from code.

        Returns:
            Whether it was written; it is dropped while there is no connection.
        """
        return self.nc.write(
            b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data)
        )

    async def flush(self, timeout: float = 2.0) -> float:  # noqa: ASYNC109
        """Wait until the server has taken all that was sent; return the seconds it took.

        Raises:
            NatsTimeout: Not in time.
            BrokerUnavailable: The connection was lost meanwhile.
        """
        nc = self.nc
        if not self.connected:
            raise self.unavailable()
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await nc.ping()
        except TimeoutError:
            raise NatsTimeout(f"NATS did not answer within {timeout:g} s") from None
        except errors.Error:
            raise self.unavailable() from None
        return time.monotonic() - started

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        timeout: float,  # noqa: ASYNC109
        headers: bytes = b"",
    ) -> Reply:
        """Send a request and wait for the first answer.

        Args:
            subject: Where to.
            data: The body.
            timeout: Seconds, for a connection and for the answer together.
            headers: The whole block, from the version line to the empty one; or nothing.

        Raises:
            NoResponders: Nobody listens there.
            NatsTimeout: No answer in time.
            NatsPermissionError: This connection may not ask there, or not hear the answer.
            BrokerUnavailable: No connection.
            MessageTooLarge: Larger than the server takes.
            TransportClosed: Not open, or closed meanwhile.
            ValidationError: The subject would break the protocol.
        """
        if not _SUBJECT.fullmatch(subject):
            raise ValidationError("a subject has no spaces or line breaks", field="subject")
        end = time.monotonic() + timeout
        await self.wait_connected(timeout)
        nc = self.nc
        if (size := len(headers) + len(data)) > nc.max_payload:
            raise MessageTooLarge(
                f"a request of {size} bytes is larger than the server takes",
                size=size,
                limit=nc.max_payload,
            )
        if self._deaf:
            raise self._unheard()
        if len(self._answers) >= _ANSWERS:
            raise BrokerUnavailable("too many requests wait for an answer")
        self._token += 1
        token = b"%d" % self._token
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers[token] = subject, future
        try:
            nc.write(command(subject.encode(), b"%b.%b" % (self._inbox, token), headers, data))
            async with asyncio.timeout(end - time.monotonic()):
                answer = await future
        except TimeoutError:
            raise NatsTimeout(f"no answer from {subject} within {timeout:g} s") from None
        finally:
            self._answers.pop(token, None)
        if parse_status(answer.raw_headers)[0] == 503:
            raise NoResponders(f"nobody answers on {subject}")
        return answer

    def _answer(self, subject: bytes, _: bytes, data: bytes, headers: bytes | None) -> None:
        asked = self._answers.get(subject[len(self._inbox) + 1 :])
        if asked is not None and not asked[1].done():
            asked[1].set_result(Reply(subject.decode(), data, headers))


def _added(
    listeners: list[Callable[..., None]], listener: Callable[..., None]
) -> Callable[[], None]:
    listeners.append(listener)

    def remove() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return remove
