"""Relays as processes, on a real broker: stopped, paused, killed."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from outbox_support import (
    Lit,
    add,
    by_key,
    change,
    count,
    declare,
    emptied,
    make_outbox,
    make_relay,
    until,
    value,
)

from common.testing import ManagedProcess

nats = pytest.importorskip("common.events.nats")

WORKER = Path(__file__).parent / "relay_worker.py"


def worker(url: str, nats_url: str, lease: float, how: str = "run") -> ManagedProcess:
    return ManagedProcess(
        sys.executable, str(WORKER), url, nats_url, str(lease), how, ready="started"
    )


def config(nats_url: str):
    """Allow streams that forget message ids soon."""
    return nats.NatsConfig(servers=(nats_url,), timeout_seconds=0.9, ack_timeout_seconds=0.5)


@asynccontextmanager
async def connected(nats_url: str, **options):
    async with nats.NatsTransport(config(nats_url)) as transport:
        await declare(transport, **options)
        yield transport


async def envelopes(transport) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = 0
    while batch := await transport.browse("LAMP", after=after, limit=1000):
        found += [json.loads(each.data) for each in batch]
        after = batch[-1].sequence
    return found


async def test_a_relay_paused_past_its_lease_changes_nothing_when_it_goes_on(
    database, postgres_url, nats_url
):
    outbox = make_outbox()
    keys = [f"k{n}" for n in range(8)]

    async def write(rounds: int) -> None:
        for _ in range(rounds):
            for key in keys:
                await change(database, key, outbox)

    async with connected(nats_url) as transport, worker(postgres_url, nats_url, 1) as paused:
        await write(5)
        await emptied(database)
        writing = asyncio.create_task(write(60))
        await asyncio.sleep(0.1)
        paused.pause()
        async with make_relay(database, transport, batch_size=5) as other:
            await until(lambda: len(other._leases.held) == 64)
            assert await value(database, "SELECT min(fence) FROM outbox_lease") == 2
            paused.resume()
            await writing
            await emptied(database)
            found = by_key(await envelopes(transport))
            assert found == {key: list(range(1, 66)) for key in keys}

            # It takes part again, as any other.
            async def shared() -> bool:
                return await value(database, "SELECT count(DISTINCT owner) FROM outbox_lease") == 2

            await until(shared)
            await write(5)
            await emptied(database)
        assert await paused.stop() == 0
        assert by_key(await envelopes(transport)) == {key: list(range(1, 71)) for key in keys}
        assert not await value(database, "SELECT count(owner) FROM outbox_lease")


async def test_a_relay_killed_before_it_deletes_only_repeats_under_the_same_ids(
    database, postgres_url, nats_url
):
    # A window so short that the broker does not know repetitions any more, and stores them.
    window = timedelta(seconds=1)
    async with connected(nats_url, duplicate_window=window) as transport:
        ids = await add(database, *[Lit(lamp=str(n), number=n) for n in range(20)])
        async with worker(postgres_url, nats_url, 1, "die") as dying:
            assert await dying.wait(60) == -9
        assert await count(database) == 20
        first = await envelopes(transport)
        assert len(first) == 5
        await asyncio.sleep(1.5)
        async with make_relay(database, transport):
            await emptied(database)
        found = await envelopes(transport)
    assert {each["id"] for each in found} == set(ids)
    assert found[:5] == first
    assert len(found) == 25
    assert sum(each in first for each in found) == 10


async def test_sigterm_hands_the_leases_back_at_once(database, postgres_url, nats_url):
    async with connected(nats_url), worker(postgres_url, nats_url, 3600) as process:
        await add(database, Lit(lamp="a"))
        await emptied(database)
        assert await process.stop(grace=60) == 0
        assert not await value(database, "SELECT count(owner) FROM outbox_lease")
        assert await count(database, "outbox_relay") == 0


async def test_a_payload_over_the_limit_of_the_server_is_a_dead_letter(database, nats_url):
    from outbox_support import Flashed

    async with connected(nats_url) as transport:
        large = make_outbox(max_payload=1 << 23)
        await add(database, Flashed(text="x" * 1_500_000), Lit(lamp="a"), outbox=large)
        async with make_relay(database, transport, attempts=2):
            await emptied(database)
        assert len(await envelopes(transport)) == 1
    assert (await value(database, "SELECT last_error FROM outbox_dead")).startswith(
        "MESSAGE_TOO_LARGE"
    )


async def test_a_stream_that_is_made_later_gets_what_waited(database, nats_url):
    async with nats.NatsTransport(config(nats_url)) as transport:
        await add(database, Lit(lamp="a"))
        async with make_relay(database, transport, attempts=1_000):

            async def refused() -> bool:
                return await value(database, "SELECT max(attempts) FROM outbox") >= 1

            await until(refused)
            await declare(transport)
            await emptied(database)
        assert len(await envelopes(transport)) == 1
