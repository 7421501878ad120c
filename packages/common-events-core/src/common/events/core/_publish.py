"""Publishing: what may leave, under which id, and what became of it."""

import asyncio
from collections.abc import Iterable
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field

from common.context import current, new_id, operation
from common.domain import Keyed, Message, Streams
from common.errors import AppError
from common.events.core._batch import Batcher
from common.events.core._codec import Codec
from common.events.core._errors import PublishError
from common.events.core._event_context import current_event
from common.events.core._results import Failed, Published, PublishReport
from common.events.core._transport import Outgoing, Receipt, Transport

_SLICE = 250
"""Messages encoded before other tasks get their turn."""


class PublishConfig(BaseModel):
    """How messages are published.

    Args:
        timeout: Seconds for one message, with every attempt; ``None``: the transport's default.
        batch_size: Messages after which a batcher sends.
        flush_interval: Seconds after which it sends what is there.
        max_buffered: Most messages it holds, those on their way included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    timeout: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=100, ge=1, le=10_000)
    flush_interval: float = Field(default=0.05, gt=0, le=60)
    max_buffered: int = Field(default=10_000, ge=1, le=1_000_000)


class Publisher:
    """Publishes the messages of one service.

    The id under which the broker knows repetitions is, in this order: the ``id`` given, the key
    of a `common.domain.Keyed`, the message's field ``idempotency_key``, a new UUIDv7.

    What a handler publishes carries the id of the message in hand as causation id. Each publish
    is an operation ``messaging.publish``; if an observer sets a span for it, the message names
    that span as its parent, else one of its own in the trace of the context.

    Args:
        transport: The broker.
        codec: Encodes.
        service: Name of this service: an event may leave only from the one that owns its stream.
        streams: The streams, and who publishes to them.
        config: Timeouts and sizes.
    """

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        *,
        service: str,
        streams: Streams,
        config: PublishConfig | None = None,
    ) -> None:
        self.use(transport)
        self._codec = codec
        self._service = service
        self._streams = streams
        self._config = config or PublishConfig()
        self._routes: dict[type[Message], str] = {}
        self._has_key: dict[type[Message], bool] = {}

    def use(self, transport: Transport) -> None:
        """Publish through another transport from now on."""
        self._transport = transport
        self._attributes = {"messaging.system": transport.name, "messaging.operation.type": "send"}

    @overload
    async def publish(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        on_error: Literal["raise"] = "raise",
    ) -> Receipt: ...

    @overload
    async def publish(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        on_error: Literal["soft"],
    ) -> Published | Failed: ...

    async def publish(
        self,
        message: Message | Keyed[Any],
        *,
        id: str | None = None,  # noqa: A002 - the standard's word
        timeout: float | None = None,  # noqa: ASYNC109 - bounds retries, which a cancellation cannot
        on_error: Literal["raise", "soft"] = "raise",
    ) -> Receipt | Published | Failed:
        """Publish a message and wait until the broker has stored it.

        Args:
            message: The message.
            id: Message id; see the class.
            timeout: Seconds for everything; ``None``: the configured one.
            on_error: ``"soft"``: every failure is a value, counted as a failed operation.

        Returns:
            The broker's receipt; softly `Published` or `Failed`.

        Raises:
            PublishNotAllowedError: The type belongs to another service's stream.
            PublishError: The broker did not acknowledge; see `Transport.publish`.
            ValueError: See `Codec.encode`, also for its other errors.
        """
        content, id = self._identified(message, id)  # noqa: A001
        before = current().trace
        with operation("messaging.publish", _subject(content), self._attributes) as op:
            try:
                outgoing = self._encoded(content, id, span=current().trace is before)
                if op.recording:
                    op.set(
                        {
                            "messaging.destination.name": outgoing.subject,
                            "messaging.message.id": outgoing.id,
                            "messaging.message.body.size": len(outgoing.data),
                        }
                    )
                receipt = await self._transport.publish(
                    outgoing, timeout=self._config.timeout if timeout is None else timeout
                )
            except Exception as error:
                if on_error == "raise":
                    raise
                op.fail(error=error)
                return Failed(_app_error(error), id, _type(content))
        return receipt if on_error == "raise" else Published(receipt)

    async def publish_many(
        self,
        messages: Iterable[Message | Keyed[Any]],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> PublishReport:
        """Publish a batch through the transport's pipeline.

        A message that cannot be encoded, or may not leave, fails alone. All of the batch is held
        in memory: cut what is larger into batches, or use a `batcher`.

        Args:
            messages: The messages.
            timeout: Seconds for each, from when it is sent; ``None``: the configured one.

        Returns:
            One result for each message, in their order.

        Raises:
            TransportClosed: Nothing was sent: the transport is not open.
        """
        batch = list(messages)
        results: list[Published | Failed | None] = [None] * len(batch)
        sent: list[tuple[int, Outgoing]] = []
        before = current().trace
        with operation("messaging.publish", "batch", self._attributes) as op:
            op.set({"messaging.batch.message_count": len(batch)})
            span = current().trace is before
            for position, message in enumerate(batch):
                if position % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
                content, id = self._identified(message, None)  # noqa: A001
                try:
                    sent.append((position, self._encoded(content, id, span=span)))
                except Exception as error:  # noqa: BLE001 - told as a result
                    results[position] = Failed(_app_error(error), id, _type(content))
            outcomes = await self.deliver([each for _, each in sent], timeout=timeout)
            for (position, _), outcome in zip(sent, outcomes, strict=True):
                results[position] = outcome
            report = PublishReport([result for result in results if result is not None])
            if failed := report.failed:
                op.set({"messaging.batch.failed_count": len(failed)})
                op.fail(error=failed[0].error)
        return report

    async def deliver(
        self,
        outgoing: list[Outgoing],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> list[Published | Failed]:
        """Publish what is encoded already, as `batcher` and an outbox do; one result for each.

        Raises:
            TransportClosed: Nothing was sent: the transport is not open.
        """
        if not outgoing:
            return []
        outcomes = await self._transport.publish_many(
            outgoing, timeout=self._config.timeout if timeout is None else timeout
        )
        return [
            Published(outcome)
            if isinstance(outcome, Receipt)
            else Failed(outcome, message.id, message.subject.partition(".")[2])
            for message, outcome in zip(outgoing, outcomes, strict=True)
        ]

    def encode(self, message: Message | Keyed[Any], *, id: str | None = None) -> Outgoing:  # noqa: A002
        """Return what would be published now, such as for an outbox.

        Raises:
            PublishNotAllowedError: The type belongs to another service's stream.
            ValueError: See `Codec.encode`, also for its other errors.
        """
        content, id = self._identified(message, id)  # noqa: A001
        return self._encoded(content, id, span=True)

    def batcher(
        self,
        *,
        batch_size: int | None = None,
        flush_interval: float | None = None,
        max_buffered: int | None = None,
    ) -> Batcher:
        """Return a buffer that publishes by number and by time; enter it with ``async with``.

        Args:
            batch_size: Messages after which it sends.
            flush_interval: Seconds after which it sends what is there.
            max_buffered: Most messages it holds, those on their way included; adding more waits.

        Raises:
            ValueError: One of these is out of range; see `PublishConfig`.
        """
        given = {
            "batch_size": batch_size,
            "flush_interval": flush_interval,
            "max_buffered": max_buffered,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        config = PublishConfig.model_validate({**self._config.model_dump(), **changes})
        return Batcher(
            self,
            batch_size=config.batch_size,
            flush_interval=config.flush_interval,
            max_buffered=config.max_buffered,
        )

    def _identified(
        self,
        message: Message | Keyed[Any],
        id: str | None,  # noqa: A002
    ) -> tuple[Message, str]:
        content: Message
        content, key = message if isinstance(message, Keyed) else (message, "")
        if id is not None:
            return content, id
        cls = type(content)
        has_key = self._has_key.get(cls)
        if has_key is None:
            has_key = "idempotency_key" in getattr(cls, "model_fields", ())
            self._has_key[cls] = has_key
        if not key and has_key:
            key = getattr(content, "idempotency_key", None) or ""  # model_construct sets none
        return content, str(key) if key else new_id()

    def _encoded(self, message: Message, id: str, *, span: bool) -> Outgoing:  # noqa: A002
        stream = self._routes.get(type(message)) or self._route(type(message))
        handled = current_event()
        return self._codec.outgoing(
            message,
            id=id,
            stream=stream,
            causation_id=None if handled is None else handled.message_id,
            span=span,
        )

    def _route(self, cls: type[Message]) -> str:
        if getattr(cls, "__message__", None) is None:
            raise TypeError(
                f"{cls.__qualname__} is no message: publish an instance of a class declared with "
                "type=…"
            )
        stream = self._routes[cls] = self._streams.check_publish(self._service, cls).name
        return stream


def _subject(message: object) -> str:
    info = getattr(message, "__message__", None)
    return "invalid" if info is None else info.subject


def _type(message: object) -> str:
    info = getattr(message, "__message__", None)
    return type(message).__name__ if info is None else info.type


def _app_error(error: Exception) -> AppError:
    if isinstance(error, AppError):
        return error
    # Of other classes the text may quote the message.
    return PublishError(
        f"the message was not published: {type(error).__name__}", retryable=False, cause=error
    )
