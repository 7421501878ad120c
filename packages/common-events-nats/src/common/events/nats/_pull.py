"""The pull engine: overlapping pull requests of one durable consumer into one subscription.

Protocol: ADR-13 and ADR-37. A status is judged by its number alone: 100 is a heartbeat; one that
says with ``Nats-Pending-Messages`` how much of a request is left gives that back; anything else
leaves in doubt what the requests are worth, so the consumer is looked up, by ``err_code``, and
asked anew on a fresh inbox. No text of the server is read.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from operator import attrgetter

from common.errors import AppError, MessageBusError, is_retryable
from common.events.nats._api import Api, Json
from common.events.nats._connection import Connection, Subscription
from common.events.nats._delivery import NatsDelivery
from common.events.nats._denied import Denied, forbidden
from common.events.nats._epoch import Epoch
from common.events.nats._headers import parse_headers, parse_status
from common.events.nats._pin import Pin
from common.events.nats._renewal import Renewal
from common.events.nats._settlements import IN_PROGRESS, NAK, Settlements, pub

HEARTBEAT = 2.0
"""Seconds between the heartbeats asked for; two that fail to come put the requests in doubt."""

EXPIRES = 30.0
"""Seconds that a pull request waits for messages."""

_ANY = 1 << 30
_STOP_SECONDS = 5.0
_CALM_SECONDS = 1.0


class Pull:
    """Keeps up to ``limit`` unsettled messages of a consumer flowing to a function.

    Args:
        connection: Open; may come and go.
        api: Of the connection.
        stream: Name of the stream.
        durable: Name of the consumer.
        limit: Most messages asked for or unsettled.
        ack_wait: The consumer's, in seconds.
        ensure: Returns the consumer's info, having made it if need be.
        take: Called with each message; must not block.
        lost: Called with the error that ends it all.
        pin: For ordered consumers.

    Attributes:
        unsettled: Messages in hand.
        asked: Messages asked for that have not come.
        generation: Rises whenever the consumer turns out to be another one.
        epoch: Rises whenever the broker may have forgotten whom it gave which message.
        renewals: How often the consumer was looked up and asked anew.
    """

    def __init__(
        self,
        connection: Connection,
        api: Api,
        *,
        stream: str,
        durable: str,
        limit: int,
        ack_wait: float,
        ensure: Callable[[], Awaitable[Json]],
        take: Callable[[NatsDelivery], None],
        lost: Callable[[AppError], None],
        pin: Pin | None = None,
    ) -> None:
        self.stream = stream
        self.durable = durable
        self.ack_wait = ack_wait
        self.limit = limit
        self.asked = 0
        self.renewals = 0
        self.unsettled: set[NatsDelivery] = set()
        self.stopped = False
        self.connection = connection
        self.api = api
        self.pin = pin
        self._ensure = ensure
        self._take = take
        self._lost = lost
        self._closed = False
        self._next = f"{api.prefix}.CONSUMER.MSG.NEXT.{stream}.{durable}".encode()
        self._inbox = b""
        self._subscription: Subscription | None = None
        self._heard = 0.0
        self._ask_soon = False
        self._batch = _ANY
        self._expires = EXPIRES
        self._write = connection.nc.write
        self._room = limit
        self._clustered = False
        self._created = ""
        self.generation = 0
        self.epoch = Epoch(connection.server_id)
        self._settled_in = 0
        self._settlements = Settlements(connection.nc.write)
        self._listeners: list[Callable[[], None]] = []
        self._renewal = Renewal(
            f"consumer {stream}/{durable}",
            ready=connection.wait_connected,
            renew=self._renew,
            care=self._care,
            seconds=self._tick,
            lost=lost,
        )

    # Beginning and end

    async def start(self, info: Json) -> None:
        """Subscribe, ask for messages, and keep doing so.

        Args:
            info: The consumer's, as `ensure` has just returned it.
        """
        self._listeners = [
            self.connection.on_up(self._reconnected),
            self.connection.on_down(self._disconnected),
            self.connection.on_denied(self._denied),
        ]
        try:
            await self._subscribe(info, self.connection.reconnects)
        except MessageBusError as error:
            if not is_retryable(error):
                raise
            self.doubt()
        self._renewal.start()

    async def stop(self) -> None:
        """Ask for no more and give up the pull requests. Idempotent.

        What the server had already sent still comes to ``take``.
        """
        self.stopped = True
        await self._renewal.stop()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            if self._clustered:
                await self._calm()
            # A message which the server finds nobody to give to is at once ready for another.
            await subscription.close(flush=True, timeout=_STOP_SECONDS)
        if self.pin is not None:
            self.pin.give_up(self)

    async def _calm(self) -> None:
        """Let requests be served that are about to be.

        A message on its way from the leader to the server at the other end of this connection is
        given up there once nobody listens, and comes again only after ``ack_wait``.
        """
        end = time.monotonic() + _CALM_SECONDS
        while self.asked and self.connection.connected and time.monotonic() < end:
            asked = self.asked
            await asyncio.sleep(_CALM_SECONDS / 20)
            if asked == self.asked:
                return

    def close(self) -> None:
        """Hand back what is unsettled; settling does nothing from now on. After `stop`."""
        for delivery in sorted(self.unsettled, key=attrgetter("sequence")):
            delivery.hand_back()
        self._closed = True
        for remove in self._listeners:
            remove()
        self._listeners.clear()

    # Settling

    def settle(self, delivery: NatsDelivery, answer: bytes) -> None:
        """Send an acknowledgement, unless it is empty; called once for each message."""
        if self._closed or delivery.generation != self.generation:
            return
        self.unsettled.discard(delivery)
        if answer:
            if delivery.epoch != self.epoch.number and not self._trusted(answer):
                answer = NAK
            self._settlements.send(delivery.reply, answer)
        free = self._room - len(self.unsettled) - self.asked
        if free * 4 >= self.limit:
            self._ask()
        elif not self.asked:
            self.ask_later()

    def extend(self, delivery: NatsDelivery) -> None:
        """Start ``ack_wait`` anew."""
        if not self._closed and delivery.generation == self.generation:
            delivery.deadline = time.monotonic() + self.ack_wait
            self._write(pub(delivery.reply, IN_PROGRESS))

    def _begin_anew(self, created: str) -> None:
        """Forget what belongs to a consumer that was deleted.

        Its messages come again, if their stream is still the same; in another stream of that
        name, their sequences are those of other messages, which must not be acknowledged.
        """
        self._created = created
        self.generation += 1
        self.unsettled.clear()
        self._settlements.forget()

    def _trusted(self, answer: bytes) -> bool:
        """Whether an answer may be sent for what the broker may have forgotten to have delivered.

        Acknowledged here, messages of an ordered consumer would be counted for another process,
        which may have them by now, and be overtaken there: they have to be sent again.
        """
        return self.pin is None or answer.startswith(NAK)

    # Asking

    def ask_later(self) -> None:
        """Ask once for whatever is settled in this turn of the loop."""
        if not self._ask_soon:
            self._ask_soon = True
            asyncio.get_running_loop().call_soon(self._ask)

    def _ask(self) -> None:
        self._ask_soon = False
        if self.stopped or not self._inbox or not self.connection.connected:
            return
        free = min(self._room - len(self.unsettled) - self.asked, self._batch)
        if free <= 0 or (self.pin is not None and not self.pin.may_ask(self.asked)):
            return
        request: Json = {
            "batch": free,
            "expires": round(self._expires * 1e9),
            "idle_heartbeat": round(min(HEARTBEAT, self._expires / 2) * 1e9),
        }
        self.request(request)
        if not self.asked:
            self._heard = time.monotonic()
        self.asked += free

    def request(self, request: Json, *, keep: bool = False) -> None:
        """Send a pull request, unless the consumer has to be looked up before.

        Args:
            request: Its body.
            keep: It only keeps the pin: its answer says nothing about the other requests.
        """
        if not self._inbox:
            return
        if self.pin is not None:
            self.pin.mark(request)
        body = json.dumps(request, separators=(",", ":")).encode()
        inbox = self._inbox + b".k" if keep else self._inbox + b".p"
        self._write(b"PUB %b %b %d\r\n%b\r\n" % (self._next, inbox, len(body), body))

    def widen(self, room: int) -> None:
        """Ask for more than ``limit`` messages for the time being."""
        self._room = max(self.limit, room)
        self._ask()

    def doubt(self) -> None:
        """Look the consumer up and ask anew."""
        self._renewal.doubt()

    def wake(self) -> None:
        """Look after the pin without waiting for the next tick."""
        self._renewal.wake()

    def publish(self, subject: str, body: bytes) -> None:
        """Send a message for which no answer is awaited."""
        self._write(pub(subject.encode(), body))

    def _receive(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if not reply:
            self._status(subject, headers)
            return
        now = self._heard = time.monotonic()
        tokens = reply.split(b".")
        tokens = tokens[2:] if len(tokens) == 9 else tokens[4:]
        delivery = NatsDelivery(self, subject.decode(), data, reply, tokens, headers, now)
        self.asked = max(0, self.asked - 1)
        if not self.asked:
            self.ask_later()  # there may be room that was too little to ask for
        self.unsettled.add(delivery)
        self._renewal.confirm()
        if self.pin is not None and not self.pin.admit(delivery, headers, self):
            return
        self._take(delivery)

    def _status(self, subject: bytes, headers: bytes | None) -> None:
        code, _ = parse_status(headers)
        if self.pin is not None and code == 423:
            self.pin.lose()
            self.doubt()  # another may have it since there is another leader
        if subject.endswith(b".k"):
            if code == 503:
                self.doubt()
            return  # the answer to a request that only keeps the pin
        self._heard = time.monotonic()
        if code == 100:
            self._renewal.confirm()
            return
        left = parse_headers(headers).get("Nats-Pending-Messages", "")
        if left.isdigit() and left.isascii():
            self.asked = max(0, self.asked - int(left))
            self._renewal.confirm()
            self.ask_later()
        else:
            self.doubt()

    # Watching

    def _reconnected(self) -> None:
        self.epoch.served_by(self.connection.server_id)
        self._renewal.restart()

    def _disconnected(self) -> None:
        # Nothing is asked for until the consumer is looked up: it may be another one by then.
        self._inbox = b""
        self.asked = 0
        if self.connection.closed:
            self.doubt()

    def _denied(self, denied: Denied) -> None:
        """End at once, and not consume in silence nothing, or the same again and again."""
        if denied.sending(asking := self._next.decode()):
            self._lost(forbidden("publish to", asking))
        elif denied.settling(self.stream, self.durable):
            self._lost(forbidden("publish to", f"$JS.ACK.{self.stream}.{self.durable}.>"))
        elif self._subscription is not None and denied.hearing(self._subscription.subject):
            self._lost(forbidden("subscribe to", f"{self.connection.config.inbox_prefix}.>"))

    def _tick(self) -> float:
        return min(HEARTBEAT, self.ack_wait / 3) if self.pin is None else self.pin.tick()

    async def _care(self, *, quiet: bool) -> None:
        unknown = not self._inbox and self.connection.connected
        if unknown or (quiet and await self._silent()):
            self.doubt()
            return
        if self.pin is not None:
            await self.pin.care(self)
        self._let_go()
        if not self.asked:
            self._ask()

    async def _silent(self) -> bool:
        """Whether the requests are not answered by as much as a heartbeat."""
        if not self.asked or time.monotonic() - self._heard < 2 * HEARTBEAT:
            return False
        # What is late may only wait for us, after a handler that kept the loop busy.
        heard = self._heard
        if not self.connection.connected:
            return True
        try:
            await self.connection.flush(timeout=2 * HEARTBEAT)
        except MessageBusError:
            return False  # not the consumer but the server is silent: the connection finds out
        return heard == self._heard

    def _let_go(self) -> None:
        """No longer count messages that the broker gives to others by now."""
        if len(self.unsettled) < self.limit:
            return
        now = time.monotonic()
        for delivery in [found for found in self.unsettled if found.deadline < now]:
            self.unsettled.discard(delivery)

    async def _renew(self) -> None:
        """Give up the requests, look the consumer up, and ask anew."""
        self.renewals += 1
        subscription, self._subscription = self._subscription, None
        self._inbox = b""
        if subscription is not None:
            # So that nothing the server had sent is missed, and none of the old requests is
            # served when the new ones are counted.
            await subscription.close(flush=True, timeout=_STOP_SECONDS)
        reconnects = self.connection.reconnects
        await self._subscribe(await self._ensure(), reconnects)

    def _check_same(self, reconnects: int) -> None:
        """Raise an error if the connection was lost since the consumer was looked up."""
        if not self.connection.connected or self.connection.reconnects != reconnects:
            raise self.connection.unavailable()

    async def _subscribe(self, info: Json, reconnects: int) -> None:
        self._check_same(reconnects)
        config = info["config"]
        self._batch = config.get("max_batch") or _ANY
        self._note_leader(info.get("cluster") or {})
        if self._created != info["created"]:
            self._begin_anew(info["created"])
        elif self.pin is not None and self._settled_in != self.epoch.number:
            self._settlements.hand_back()  # what is not known to be settled
        self._settled_in = self.epoch.number
        if self.pin is not None:
            self.pin.compare(info)
        self._settlements.resend()
        self._expires = min(EXPIRES, (config.get("max_expires") or EXPIRES * 1e9) / 1e9)
        inbox = self.connection.new_inbox()
        self.asked = 0
        # The last token tells requests for messages from those that only keep the pin.
        self._subscription = await self.connection.subscribe(f"{inbox}.*", self._receive)
        self._check_same(reconnects)
        self._inbox = inbox.encode()
        self._heard = time.monotonic()
        self._ask()

    def _note_leader(self, cluster: Json) -> None:
        self._clustered = bool(cluster)
        if cluster or self.connection.has_jetstream:
            self.epoch.led_by(cluster.get("leader"), cluster.get("leader_since"))
        else:
            self.epoch.led_by("a server behind a leaf node")
