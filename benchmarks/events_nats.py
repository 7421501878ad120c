"""Durable publishing over NATS JetStream against raw nats-py and FastStream."""

# The peers are in the bench group, which `make check` does without.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import itertools
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import nats
from faststream.nats import NatsBroker

from benchmarks._harness import Bar, Group
from common.domain import streams
from common.domain.notification import EmailFailed
from common.events.core._codec import Codec
from common.events.core._declarations import StreamSpec
from common.events.core._publish import Publisher
from common.events.core._transport import Outgoing
from common.events.nats import NatsConfig, NatsTransport
from common.testing import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NUMBER = 3_000
ROUNDS = 9
SIZE = 256
WINDOW = 1_000
TASKS = 500
SUBJECT = "evt.notification.email.failed"

ids = (f"id-{number:012}" for number in itertools.count())


def event(error=""):
    return EmailFailed(
        notification_id=uuid4(),
        merchant_id=uuid4(),
        notification_type="receipt",
        error=error,
        error_code="BOUNCED",
        retry_count=3,
        will_retry=False,
        failed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def events():
    """Events of 256 bytes of JSON each."""
    missing = SIZE - len(event().model_dump_json())
    found = [event("x" * missing) for _ in range(NUMBER)]
    assert {len(each.model_dump_json()) for each in found} == {SIZE}
    return found


async def groups() -> AsyncIterator[Group]:
    """One server with a file store for all; every contender has a connection of its own."""
    logging.getLogger("faststream").setLevel(logging.ERROR)
    logging.getLogger("nats").setLevel(logging.ERROR)
    async with NatsServer() as server:
        config = NatsConfig.model_validate({"servers": server.url})
        broker = NatsBroker(server.url, logger=None)
        async with NatsTransport(config) as transport, broker:
            spec = StreamSpec(
                name="NOTIFICATION", subjects=("evt.notification.>",), max_messages=100_000
            )
            await transport.declare([spec], mode="create")
            nc = await nats.connect(server.url)
            yield await publishing(transport, nc, broker)
            await nc.close()


async def publishing(transport, nc, broker) -> Group:  # noqa: C901 - a function for each contender
    sent = events()
    body = sent[0].model_dump_json().encode()
    js = nc.jetstream(publish_async_max_pending=WINDOW)
    publisher = Publisher(
        transport, Codec(source="/bench"), service="notification-service", streams=streams
    )

    async def raw(number):
        """Core publishes with an inbox for acknowledgements, as fast as nats-py goes."""
        inbox, acknowledged, done = nc.new_inbox(), 0, asyncio.Event()

        async def acknowledge(message):
            nonlocal acknowledged
            assert b'"seq"' in message.data
            acknowledged += 1
            done.set()

        subscription = await nc.subscribe(f"{inbox}.*", cb=acknowledge)
        for position in range(number):
            while position - acknowledged >= WINDOW:
                done.clear()
                await done.wait()
            headers = {"Nats-Msg-Id": next(ids)}
            await nc.publish(SUBJECT, body, reply=f"{inbox}.{position}", headers=headers)
        while acknowledged < number:
            done.clear()
            await done.wait()
        await subscription.unsubscribe()

    async def many(number):
        report = await publisher.publish_many(sent[:number])
        assert not report.failed

    async def tasks(number):
        left = iter(sent[:number])

        async def work():
            for each in left:
                await publisher.publish(each)

        await asyncio.gather(*(work() for _ in range(TASKS)))

    async def bytes_only(number):
        messages = [Outgoing(SUBJECT, body, next(ids), "NOTIFICATION") for _ in range(number)]
        results = await transport.publish_many(messages)
        assert all(hasattr(each, "sequence") for each in results)

    async def sequential(number):
        for _ in range(number):
            await js.publish(SUBJECT, body, headers={"Nats-Msg-Id": next(ids)})

    async def asynchronous(number):
        for _ in range(number):
            await js.publish_async(SUBJECT, body, headers={"Nats-Msg-Id": next(ids)})
        await js.publish_async_completed()

    async def faststream(number):
        for each in sent[:number]:
            await broker.publish(
                each, SUBJECT, stream="NOTIFICATION", headers={"Nats-Msg-Id": next(ids)}
            )

    async def faststream_tasks(number):
        left = iter(sent[:number])

        async def work():
            for each in left:
                await broker.publish(
                    each, SUBJECT, stream="NOTIFICATION", headers={"Nats-Msg-Id": next(ids)}
                )

        await asyncio.gather(*(work() for _ in range(TASKS)))

    bars = []
    for contender in ("common, typed batch", f"common, typed, {TASKS} tasks"):
        bars += [
            Bar(contender=contender, rate=10_000),
            Bar(contender=contender, against="nats-py js.publish", ratio=1 / 3),
            Bar(contender=contender, against="FastStream", ratio=1 / 5),
        ]
    # The raw pipeline is one loop; its like here is the batch, without a task for each message.
    bars.append(Bar(contender="common, typed batch", against="raw pipeline", extra=15e-6, of="cpu"))
    return Group(
        name=f"durable publish, {SIZE} B",
        contenders={
            "raw pipeline": raw,
            "common, bytes": bytes_only,
            "common, typed batch": many,
            f"common, typed, {TASKS} tasks": tasks,
            "nats-py js.publish": sequential,
            "nats-py publish_async": asynchronous,
            "FastStream": faststream,
            f"FastStream, {TASKS} tasks": faststream_tasks,
        },
        number=NUMBER,
        rounds=ROUNDS,
        bars=bars,
    )
