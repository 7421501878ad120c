"""Publishing with many messages on their way at once, and a result for every one of them."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Sequence

from common.context import remaining
from common.errors import MessageBusError
from common.events.core._errors import (
    BrokerUnavailable,
    MessageTooLarge,
    MissingStream,
    PublishRejected,
    TransportClosed,
)
from common.events.core._transport import Outgoing, Receipt
from common.events.nats._api import Api
from common.events.nats._batch import Batch
from common.events.nats._config import NatsConfig
from common.events.nats._connection import Connection, Subscription
from common.events.nats._denied import Denied
from common.events.nats._errors import JetStreamDisabled, NatsPermissionError, NoResponders
from common.events.nats._headers import VERSION, encode_headers, parse_status
from common.events.nats._in_flight import InFlight, Result, judge
from common.events.nats._window import Window

log = logging.getLogger(__name__)

_NEVER = float("inf")
_TICK = 0.01  # shortest pause between two looks at all that is on its way
_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
_KNOWN_SUBJECTS = 10_000
_SILENCE = 4  # times that nobody answers for JetStream, until it is taken for switched off


class Pipeline:
    """Publishes over a connection, with acknowledgements of JetStream to an inbox of its own.

    A message stays on its way until it is acknowledged, refused for good, or out of time.
    Meanwhile it is sent again, under the same message id, when no acknowledgement comes, when the
    connection was made anew, and after a fault that passes.
    """

    def __init__(self, connection: Connection, api: Api, config: NatsConfig) -> None:
        self._connection = connection
        self._api = api
        self._config = config
        self.seconds = config.timeout_seconds
        self._ack_timeout = config.ack_timeout_seconds
        self.window = Window(config.max_in_flight, config.max_in_flight_bytes)
        self._in_flight: dict[bytes, InFlight] = {}
        self._write: Callable[[bytes], bool] = _nowhere
        self._inbox = b""
        self._inbox_length = 0
        self._count = 0
        self._routes: dict[str, _Route] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = _NEVER
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._subscription: Subscription | None = None
        self._unlisten: list[Callable[[], None]] = []
        self._open = False

    async def open(self) -> None:
        """Subscribe to acknowledgements; the connection must be open."""
        self._routes.clear()  # they name the inbox
        self._timer, self._wake_at = None, _NEVER
        inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(f"{inbox}.*", self._answered)
        self._write = self._connection.nc.write
        self._inbox = inbox.encode()
        self._inbox_length = len(self._inbox) + 1
        self._unlisten = [
            self._connection.on_up(self._send_all),
            self._connection.on_down(self._hold_all),
            self._connection.on_denied(self._denied),
        ]
        self._open = True

    async def close(self) -> None:
        """Give everything on its way its result. Idempotent."""
        self._open = False
        for unlisten in self._unlisten:
            unlisten()
        for task in self._asking.values():
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for entry in list(self._in_flight.values()):
            self._settle(entry, self._closed_error())
        self._asking.clear()
        if self._subscription is not None:
            await self._subscription.close()

    @property
    def is_open(self) -> bool:
        """Whether messages can be published."""
        return self._open

    # Publishing

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> Receipt:  # noqa: ASYNC109
        """Publish a message: see `Transport.publish`."""
        now = time.monotonic()
        seconds, left = self.seconds if timeout is None else timeout, remaining()
        deadline = now + (seconds if left is None else min(seconds, left))
        command, token = self.encode(message)
        if deadline <= now:
            raise InFlight(message, token, command, deadline, _ignore).timed_out("no time left")
        if not self.window.try_enter(len(command)):
            await self._enter(message, len(command), deadline)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def done(result: Result) -> None:
            self.window.leave(len(command))
            if future.done():
                return
            if isinstance(result, Receipt):
                future.set_result(result)
            else:
                future.set_exception(result)

        entry = InFlight(message, token, command, deadline, done)
        self.start(entry, now)
        try:
            return await future
        except asyncio.CancelledError:
            self.drop(entry)
            raise

    async def publish_many(
        self,
        messages: Sequence[Outgoing],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> list[Result]:
        """Publish a batch: see `Transport.publish_many`."""
        self.check_open()
        return await Batch(self, messages, timeout).run()

    def check_open(self) -> None:
        """Raise unless open."""
        if not self._open:
            raise self._closed_error()

    def encode(self, message: Outgoing) -> tuple[bytes, bytes]:
        """Return the command for a message, and the token its answer will have.

        Raises:
            MessageTooLarge: Larger than the server takes.
            PublishRejected: Its subject, id or headers cannot be sent.
            TransportClosed: Not open.
        """
        self.check_open()
        route = self._routes.get(message.subject) or self._known(message)
        id = message.id  # noqa: A001
        if not id or not id.isprintable() or id != id.strip(" "):
            raise PublishRejected(
                "a message id must not be empty, nor hold line breaks or other control "
                "characters, nor start or end with a space"
            )
        headers = b"%b\r\nNats-Msg-Id: %b\r\n" % (VERSION, id.encode())
        if message.headers:
            try:
                headers += encode_headers(message.headers)
            except ValueError as error:
                raise PublishRejected(str(error), message_id=message.id) from None
        data = message.data
        before, size = len(headers) + 2, len(headers) + 2 + len(data)
        if size > (limit := self._connection.max_payload):
            raise _too_large(message, size, limit)
        if message.stream != route.stream:
            line = _expecting(message.stream)
            if size + len(line) <= limit:
                headers, before, size = headers + line, before + len(line), size + len(line)
        self._count += 1
        token = b"%d" % self._count
        head = b"%b%b %d %d\r\n" % (route.start, token, before, size)
        return b"%b%b\r\n%b\r\n" % (head, headers, data), token

    def _known(self, message: Outgoing) -> "_Route":
        subject = message.subject
        if _SUBJECT.fullmatch(subject) is None or not subject.isprintable():
            raise PublishRejected(
                f"{subject[:200]!r} is no subject to publish to: give words joined by dots, "
                "without spaces and wildcards",
                message_id=message.id,
            )
        if len(self._routes) >= _KNOWN_SUBJECTS:
            self._routes.clear()
        route = self._routes[subject] = _Route(b"HPUB %b %b." % (subject.encode(), self._inbox))
        return route

    async def _enter(self, message: Outgoing, size: int, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self.window.enter(size)
        except TimeoutError:
            why = f"{self._config.max_in_flight} messages are on their way already"
            raise InFlight(message, b"", b"", deadline, _ignore).timed_out(why) from None
        if not self._open:
            self.window.leave(size)
            raise self._closed_error()

    # What is on its way

    def start(self, entry: InFlight, now: float) -> None:
        """Send a message that has a place in the window; its ``done`` will be called."""
        self._in_flight[entry.token] = entry
        self._send(entry, now)
        if entry.deadline < self._wake_at or entry.resend_at < self._wake_at:
            self._look_at(min(entry.deadline, entry.resend_at))

    def drop(self, entry: InFlight) -> None:
        """Forget a message whose result nobody wants; it may be stored all the same."""
        if self._in_flight.pop(entry.token, None) is not None:
            entry.done(self._closed_error())

    def _settle(self, entry: InFlight, result: Result) -> None:
        if self._in_flight.pop(entry.token, None) is not None:
            entry.done(result)

    def _send(self, entry: InFlight, now: float) -> None:
        entry.resend_at = _NEVER
        # Later, the stream may have forgotten the message id, and would store it twice.
        if now < entry.resend_until and self._write(entry.command):
            if not entry.attempts:
                entry.resend_until = now + self.seconds
            # Each attempt waits twice as long as the one before: the server may only be slow.
            entry.resend_at = now + self._ack_timeout * (1 << min(entry.attempts, 4))
            entry.attempts += 1

    def _send_all(self) -> None:
        now, limit = time.monotonic(), self._connection.max_payload
        for entry in list(self._in_flight.values()):
            if entry.size > limit:  # by now; sent again and again, it would end every connection
                self._settle(entry, _too_large(entry.message, entry.size, limit))
                continue
            self._send(entry, now)
        self._look_at(now + _TICK)

    def _hold_all(self) -> None:
        for entry in self._in_flight.values():
            entry.resend_at = _NEVER

    def _look_at(self, when: float) -> None:
        if when >= self._wake_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = when
        delay = max(when - time.monotonic(), _TICK)
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._timer, self._wake_at = None, _NEVER
        now, following = time.monotonic(), _NEVER
        congested = self._connection.nc.congested
        for entry in list(self._in_flight.values()):
            if entry.deadline <= now:
                self._settle(entry, entry.timed_out(self._why()))
                continue
            if entry.resend_at <= now:
                if congested:  # it is still on its way to a server that reads slowly
                    entry.resend_at = now + 0.1
                else:
                    self._send(entry, now)
            following = min(following, entry.deadline, entry.resend_at)
        if following < _NEVER:
            self._look_at(following)

    def _why(self) -> str:
        if self._connection.connected:
            return "JetStream does not answer"
        return self._connection.unavailable().message

    # Answers

    def _answered(self, subject: bytes, _: bytes, data: bytes, headers: bytes | None) -> None:
        entry = self._in_flight.get(subject[self._inbox_length :])
        if entry is None:
            return  # of an attempt before the one that was acknowledged
        if headers is not None and parse_status(headers)[0] == 503:
            entry.unanswered = True
            self._again(entry, "no stream listens, or its leader is away")
            self._ask(entry.message.subject)
            return
        result = judge(entry.message, data)
        if isinstance(result, str):
            self._again(entry, result)
            return
        if isinstance(result, Receipt):
            route = self._routes.get(entry.message.subject)
            if route is not None:
                route.stream = result.stream
        self._settle(entry, result)

    def _again(self, entry: InFlight, why: str) -> None:
        if entry.trouble != why:
            entry.trouble = why
            log.debug("Publishing again: %s", why, extra={"subject": entry.message.subject})
        pause = min(2.0, 0.05 * 2.0 ** min(entry.attempts, 10)) * random.uniform(0.5, 1)  # noqa: S311
        entry.resend_at = time.monotonic() + pause
        self._look_at(entry.resend_at)

    def _ask(self, subject: str) -> None:
        """Find out why nobody listens on a subject."""
        if subject not in self._asking:
            task = self._asking[subject] = asyncio.create_task(self._find_stream(subject))
            task.add_done_callback(lambda _: self._asking.pop(subject, None))

    async def _find_stream(self, subject: str) -> None:
        error: MessageBusError
        for attempt in range(_SILENCE):
            await asyncio.sleep(0.25 * attempt)
            try:
                found = await self._api.request("STREAM.NAMES", {"subject": subject})
            except NoResponders:
                continue
            except (BrokerUnavailable, NatsPermissionError):
                return  # passes, or may not be asked; until then it is tried again
            except MessageBusError as raised:
                error = raised
                break
            if found.get("streams"):
                return  # it was just made, or has no leader at the moment
            error = MissingStream(f"no stream takes {subject}: declare one")
            break
        else:
            error = JetStreamDisabled(
                "nobody answers for JetStream: enable it for the server and for the account"
            )
        for entry in list(self._in_flight.values()):
            if entry.unanswered and entry.message.subject == subject:
                self._settle(entry, error)

    def _denied(self, denied: Denied) -> None:
        for entry in list(self._in_flight.values()):
            if denied.sending(entry.message.subject):
                self._settle(
                    entry,
                    PublishRejected(
                        f"{entry.message.subject}: the server's permissions forbid this "
                        "connection to publish there",
                        message_id=entry.message.id,
                    ),
                )

    @staticmethod
    def _closed_error() -> TransportClosed:
        return TransportClosed("the NATS transport is not open: enter it with async with")


class _Route:
    """What is known of a subject: how its commands begin, and the stream that last stored one."""

    __slots__ = ("start", "stream")

    def __init__(self, start: bytes) -> None:
        self.start = start
        self.stream = ""


def _expecting(stream: str) -> bytes:
    """Return the header by which no other stream stores a message.

    It is sent until this stream has stored one of the subject: each header costs the server much.
    """
    if not stream or not stream.isprintable():
        return b""
    return b"Nats-Expected-Stream: %b\r\n" % stream.encode()


def _too_large(message: Outgoing, size: int, limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"{message.subject}: {size} bytes with headers are more than the server takes",
        message_id=message.id,
        size=size,
        limit=limit,
    )


def _ignore(_: Result) -> None:
    pass


def _nowhere(_: bytes) -> bool:
    return False
