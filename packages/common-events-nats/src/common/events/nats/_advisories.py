"""Messages which the server will not deliver again, found by its advisories.

After ``max_deliver`` deliveries without a settlement nobody is given a message any more, and the
server only says so, once, in ``$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.<stream>.<consumer>``.
A stream keeps these advisories, so that none is missed while nobody runs, and each durable has a
consumer of its own there.
"""

import asyncio
import base64
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from common.errors import AppError, MessageBusError, is_retryable
from common.events.core._errors import MissingStream
from common.events.core._transport import ConsumerSpec, Delivery
from common.events.nats._api import Api, Json, patiently
from common.events.nats._connection import Connection
from common.events.nats._consumer_config import ensure
from common.events.nats._delivery import NatsDelivery
from common.events.nats._errors import ErrCode, JetStreamError
from common.events.nats._headers import parse_headers
from common.events.nats._pull import Pull

log = logging.getLogger(__name__)

ADVISORIES = "ADVISORIES"
"""The stream of advisories, unless another one takes their subjects already."""

_SUBJECTS = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
_MAX_BYTES = 256 << 20  # some hundred thousand advisories that nobody has dealt with
_AT_ONCE = 8
_AGAIN_SECONDS = 5.0


class ExhaustedDelivery(Delivery):
    """A message that was delivered as often as it may be; settling it settles its advisory."""

    __slots__ = ("_advisory", "_done", "_stored")

    def __init__(
        self,
        advisory: NatsDelivery,
        stream: str,
        stored: Json,
        attempt: int,
        done: Callable[[int], None],
    ) -> None:
        self.subject = str(stored["subject"])
        self.data = base64.b64decode(stored.get("data", ""))
        self.stream = stream
        self.sequence = int(stored["seq"])
        self.attempt = attempt
        self.received = advisory.received
        self.exhausted = True
        self._advisory = advisory
        self._done = done
        self._stored = stored

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Delivery.headers`."""
        headers = self._stored.get("hdrs")
        return parse_headers(base64.b64decode(headers)) if headers else {}

    @property
    def timestamp(self) -> datetime:
        """See `Delivery.timestamp`."""
        return datetime.fromisoformat(str(self._stored["time"])).astimezone(UTC)

    @property
    def settled(self) -> bool:
        """See `Delivery.settled`."""
        return self._advisory.settled

    async def ack(self) -> None:
        """Forget it."""
        await self.term()

    async def nak(self, delay: float = 0.0) -> None:
        """Let it come again."""
        self._advisory.hand_back(delay)

    async def term(self, reason: str = "") -> None:
        """Forget it."""
        if not self.settled:
            self._done(self.sequence)
            await self._advisory.term(reason)

    async def in_progress(self) -> None:
        """See `Delivery.in_progress`."""
        await self._advisory.in_progress()

    def hand_back(self, delay: float = 0.0) -> None:
        """Let it come again."""
        self._advisory.hand_back(delay)


class Advisories:
    """Hands on the messages of one durable that were delivered too often.

    Args:
        connection: Open.
        api: Of the connection.
        spec: The subscription, with ``max_deliver``.
        take: Called with each such message.
        lost: Called with an error that time does not mend.
    """

    def __init__(
        self,
        connection: Connection,
        api: Api,
        spec: ConsumerSpec,
        *,
        take: Callable[[ExhaustedDelivery], None],
        lost: Callable[[AppError], None],
    ) -> None:
        self._connection = connection
        self._api = api
        self._spec = spec
        self._take = take
        self._lost = lost
        self._source: Json = {}
        self._pull: Pull | None = None
        self._waiting: asyncio.Queue[NatsDelivery] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the stream and the consumer if need be, and pull."""
        self._source = (await self._api.request(f"STREAM.INFO.{self._spec.stream}"))["config"]
        stream = await self._stream()
        address = f"{self._spec.stream}.{self._spec.durable}"
        own = ConsumerSpec(
            # The checksum, because both names may hold what stands between them.
            durable=f"{self._spec.stream}_{self._spec.durable}_{zlib.crc32(address.encode()):08x}",
            stream=stream,
            subjects=(f"{_SUBJECTS}.{address}",),
            ack_wait=self._spec.ack_wait,
            max_outstanding=_AT_ONCE,
        )

        async def make() -> Json:
            await self._stream()
            return await ensure(self._api, own)

        async def ensured() -> Json:
            return await patiently(make)

        self._pull = Pull(
            self._connection,
            self._api,
            stream=stream,
            durable=own.durable,
            limit=_AT_ONCE,
            ack_wait=own.ack_wait,
            ensure=ensured,
            take=self._waiting.put_nowait,
            lost=self._lost,
        )
        await self._pull.start(await ensured())
        name = f"exhausted {address}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    async def stop(self) -> None:
        """Ask for no more."""
        if self._pull is not None:
            await self._pull.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def close(self) -> None:
        """Hand back what is unsettled. After `stop`."""
        if self._pull is not None:
            self._pull.close()

    async def _stream(self) -> str:
        """Return the stream that keeps the advisories, having made it if need be."""
        subjects = f"{_SUBJECTS}.>"
        names = await self._api.request("STREAM.NAMES", {"subject": subjects})
        if found := names.get("streams"):
            return str(found[0])
        config = {
            "name": ADVISORIES,
            "subjects": [subjects],
            "description": "Messages that were delivered as often as they may be.",
            "retention": "workqueue",
            "storage": "file",
            "discard": "old",
            "max_bytes": _MAX_BYTES,
            "num_replicas": self._source.get("num_replicas", 1),  # as what they are about
        }
        try:
            await self._api.request(f"STREAM.CREATE.{ADVISORIES}", config)
        except JetStreamError as error:
            if error.err_code not in {
                ErrCode.STREAM_NAME_EXISTS,
                ErrCode.STREAM_SUBJECT_OVERLAP,
            }:
                raise
        return ADVISORIES

    def _done(self, sequence: int) -> None:
        """Remove from a work queue what nobody will take from there any more."""
        if self._source.get("retention") == "workqueue" and self._pull is not None:
            subject = f"{self._api.prefix}.STREAM.MSG.DELETE.{self._spec.stream}"
            self._pull.publish(subject, b'{"seq":%d,"no_erase":true}' % sequence)

    async def _run(self) -> None:
        while True:
            advisory = await self._waiting.get()
            try:
                await self._look_up(advisory)
            except MessageBusError as error:
                if not is_retryable(error):
                    log.warning("An exhausted message of %s: %s", self._spec.stream, error)
                advisory.hand_back(_AGAIN_SECONDS)
            except Exception:
                log.exception("An advisory cannot be read")
                advisory.hand_back(_AGAIN_SECONDS)

    async def _look_up(self, advisory: NatsDelivery) -> None:
        told = json.loads(advisory.data)
        try:
            answer = await self._api.request(
                f"STREAM.MSG.GET.{self._spec.stream}", {"seq": int(told["stream_seq"])}
            )
        except MissingStream:
            await advisory.ack()
        except JetStreamError as error:
            if error.err_code != ErrCode.MESSAGE_NOT_FOUND:
                raise
            await advisory.ack()  # removed, or settled after all
        else:
            deliveries = int(told["deliveries"])
            message = answer["message"]
            self._take(
                ExhaustedDelivery(advisory, self._spec.stream, message, deliveries, self._done)
            )
