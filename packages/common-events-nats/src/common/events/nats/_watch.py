"""Following the keys of a bucket, over reconnects, restarts and changes of leaders.

nats-py's watch notices a lost consumer only by missing heartbeats, and waits for ever when the
bucket is deleted or the connection closed. This one pulls, with a consumer of its own that is
made anew after whatever was seen last, each time anything is in doubt (ADR-8, ADR-17).
"""

import asyncio
import contextlib
import secrets
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from common.errors import AppError
from common.events.core._errors import MissingStream
from common.events.nats._api import Api, Json, patiently
from common.events.nats._connection import Connection
from common.events.nats._delivery import NatsDelivery
from common.events.nats._errors import JetStreamError
from common.events.nats._pull import Pull
from common.events.nats._store_errors import BucketNotFound

_AT_ONCE = 64
_IDLE_SECONDS = 60  # then the server forgets a consumer that nobody asks
_DELETIONS = frozenset({"DEL", "PURGE"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a bucket.

    Attributes:
        key: The key.
        value: The value; empty where it was deleted.
        revision: Rises with each change in the bucket.
        deleted: Whether this is a deletion; only a watch shows these.
        created: When it was stored; ``None`` where the server does not say.
    """

    key: str
    value: bytes
    revision: int
    deleted: bool = False
    created: datetime | None = None


class Watch:
    """The last value of each key, then every change.

    Args:
        connection: Open; may come and go.
        api: Of the connection.
        bucket: Name of the bucket.
        pattern: Of the keys.
        keys_only: Leave out the values.

    Attributes:
        ahead: How many entries were still to come, by the server's last word.
    """

    def __init__(
        self, connection: Connection, api: Api, bucket: str, pattern: str, *, keys_only: bool
    ) -> None:
        self.ahead = 0
        self._api = api
        self._bucket = bucket
        self._prefix = f"$KV.{bucket}."
        self._keys_only = keys_only
        self._filter = f"{self._prefix}{pattern}"
        self._entries: deque[NatsDelivery] = deque()
        self._arrived = asyncio.Event()
        self._error: AppError | None = None
        self._stream_created = ""
        self._last = 0  # revision that was handed on
        self._delivered = 0  # by the present consumer
        self._pull = Pull(
            connection,
            api,
            stream=f"KV_{bucket}",
            durable=f"watch_{secrets.token_hex(8)}",
            limit=_AT_ONCE,
            ack_wait=30.0,
            ensure=self._ensure,
            take=self._take,
            lost=self._lost,
        )

    async def start(self) -> None:
        """Begin to follow.

        Raises:
            BucketNotFound: It does not exist.
            BrokerUnavailable: No answer.
        """
        try:
            await self._pull.start(await self._ensure())
        except BaseException:
            await self.close()
            raise

    async def next(self) -> Entry:
        """Return the next entry; cancelling loses none.

        Raises:
            BucketNotFound: The bucket was deleted.
            TransportClosed: The connection was closed.
        """
        while not self._entries:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        delivery = self._entries.popleft()
        delivery.forget()
        self._last, self.ahead = delivery.sequence, delivery.following
        headers = delivery.headers
        return Entry(
            key=delivery.subject.removeprefix(self._prefix),
            value=delivery.data,
            revision=delivery.sequence,
            # The server's own marks say why: it expired, or was purged.
            deleted=headers.get("KV-Operation") in _DELETIONS or "Nats-Marker-Reason" in headers,
            created=delivery.timestamp,
        )

    async def close(self) -> None:
        """Stop following. Idempotent."""
        await self._pull.stop()
        self._pull.close()
        self._pull.publish(f"{self._api.prefix}.CONSUMER.DELETE.{self._address}", b"")

    @property
    def _address(self) -> str:
        return f"{self._pull.stream}.{self._pull.durable}"

    async def _ensure(self) -> Json:
        """Make a consumer that goes on after what was handed on."""
        stream = self._pull.stream
        try:
            found = await patiently(lambda: self._api.request(f"STREAM.INFO.{stream}"))
            if found["created"] != self._stream_created:
                self._stream_created, self._last = found["created"], 0
                self._entries.clear()
            with contextlib.suppress(JetStreamError):
                await self._api.request(f"CONSUMER.DELETE.{self._address}")
            config: Json = {
                "name": self._pull.durable,
                "ack_policy": "none",
                "filter_subject": self._filter,
                "headers_only": self._keys_only,
                "inactive_threshold": _IDLE_SECONDS * 10**9,
                "mem_storage": True,
                "num_replicas": 1,
                "deliver_policy": "last_per_subject",
            }
            if self._last:
                config |= {
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": self._last + 1,
                }
            request = {"stream_name": stream, "action": "create", "config": config}
            info = await self._api.request(f"CONSUMER.CREATE.{self._address}", request)
        except MissingStream as error:
            raise BucketNotFound(
                f"there is no bucket {self._bucket}", bucket=self._bucket
            ) from error
        self._entries.clear()  # they come again
        self._delivered = 0
        self.ahead = int(info["num_pending"])
        return info

    def _take(self, delivery: NatsDelivery) -> None:
        if delivery.consumer_sequence != self._delivered + 1:
            # Lost between two servers: nobody else would notice.
            delivery.forget()
            self._pull.doubt()
            return
        self._delivered += 1
        if delivery.sequence <= self._last:  # handed on while this consumer was made
            delivery.forget()
            return
        self._entries.append(delivery)
        self._arrived.set()

    def _lost(self, error: AppError) -> None:
        self._error = error
        self._arrived.set()
