"""Relays as processes, on a real broker: stopped, paused, killed."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from outbox_support import (
    Flashed,
    Lit,
    add,
    by_key,
    change,
    count,
    declare,
    emptied,
    make_outbox,
    make_relay,
    run_sql,
    until,
    value,
)

from common.events.core import MessageTooLarge, Outgoing
from common.testing import ManagedProcess

nats = pytest.importorskip("common.events.nats")

WORKER = Path(__file__).parent / "relay_worker.py"


def worker(url: str, nats_url: str, lease: float, how: str = "run", **env: str) -> ManagedProcess:
    return ManagedProcess(
        sys.executable, str(WORKER), url, nats_url, str(lease), how, ready="started", env=env
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
        first = {each["id"] for each in await envelopes(transport)}
        assert len(first) == 5
        await forgotten(transport)
        async with make_relay(database, transport):
            await emptied(database)
        copies: dict[str, list[Any]] = {}
        for each in await envelopes(transport):
            copies.setdefault(each["id"], []).append(each)
    assert set(copies) == set(ids)
    assert all(len(copies[id_]) >= 2 for id_ in first)
    assert all(each == same[0] for same in copies.values() for each in same)


async def forgotten(transport) -> None:
    """Wait until the broker has forgotten the ids of what it stored before."""
    probe = Outgoing("evt.lamp.flashed", b"", "probe", "LAMP")
    await transport.publish(probe)
    while (stored := await transport.publish(probe)).duplicate:
        await asyncio.sleep(0.1)
    for sequence in range(1, stored.sequence + 1):
        (found,) = await transport.browse("LAMP", after=sequence - 1, limit=1)
        if not found.data:
            await transport.remove("LAMP", found.sequence)
        if found.sequence >= stored.sequence:
            break


async def test_sigterm_hands_the_leases_back_at_once(database, postgres_url, nats_url):
    async with connected(nats_url), worker(postgres_url, nats_url, 3600) as process:
        await add(database, Lit(lamp="a"))
        await emptied(database)
        owner = await value(database, "SELECT owner FROM outbox_relay")
        assert owner.split(":")[1] == str(process.pid)  # so that operators find it
        assert await process.stop(grace=60) == 0
        assert not await value(database, "SELECT count(owner) FROM outbox_lease")
        assert await count(database, "outbox_relay") == 0


async def test_a_payload_over_the_limit_of_the_server_is_a_dead_letter(database, nats_url):
    async with connected(nats_url) as transport:
        large = make_outbox(max_payload=1 << 23)
        await add(database, Flashed(text="x" * 1_500_000), Lit(lamp="a"), outbox=large)
        async with make_relay(database, transport, attempts=2):
            await emptied(database)
        assert len(await envelopes(transport)) == 1
    assert (await value(database, "SELECT last_error FROM outbox_dead")).startswith(
        "MESSAGE_TOO_LARGE"
    )


async def test_what_an_outbox_takes_the_server_takes_too(database, nats_url):
    outbox, limit = make_outbox(), 1_048_576
    added = refused = 0
    least = len(outbox._encode(Flashed(), "i-000").data)
    async with connected(nats_url) as transport:
        for spare in [*range(60), 1000]:
            async with database.transaction() as tx:
                message = Flashed(text="x" * (limit - least - spare))
                try:
                    await outbox.add(tx, message, id=f"i-{spare:03}")
                    added += 1
                except MessageTooLarge:
                    refused += 1
            if added == 2:
                break  # the largest, and one a byte smaller
        async with make_relay(database, transport, attempts=1):
            await emptied(database)
        assert len(await envelopes(transport)) == added == 2
        assert refused > 1
    assert await count(database, "outbox_dead") == 0


# Overrides what programs and libraries ask for the time of day, but not what measures durations.
CLOCK = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t shift(void) { return atol(getenv("CLOCK_SHIFT")); }

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && id == CLOCK_REALTIME) now->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture(scope="session")
def clock(tmp_path_factory) -> Path:
    """A library that shifts the clock of a process by ``CLOCK_SHIFT`` seconds."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("there is no compiler for a clock that is wrong")
    folder = tmp_path_factory.mktemp("clock")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True
    )
    return library


def test_a_clock_that_is_wrong_is(clock):
    """Or the next test would be of nothing."""
    env = {"LD_PRELOAD": str(clock), "CLOCK_SHIFT": "-864000"}
    look = "import time; print(time.time(), time.monotonic())"
    done = subprocess.run([sys.executable, "-c", look], env=env, check=True, capture_output=True)
    wall, monotonic = map(float, done.stdout.split())
    assert abs(wall + 864_000 - time.time()) < 3_600
    assert abs(monotonic - time.monotonic()) < 3_600


async def test_relays_on_hosts_whose_clocks_are_days_apart_work_as_any_others(
    database, postgres_url, nats_url, clock
):
    outbox, days, lease = make_outbox(), 2 * 86_400, 3
    keys = [f"k{n}" for n in range(16)]

    def host(shift: int) -> ManagedProcess:
        env = {"LD_PRELOAD": str(clock), "CLOCK_SHIFT": str(shift)}
        return worker(postgres_url, nats_url, lease, **env)

    async def write(rounds: int) -> None:
        for _ in range(rounds):
            for key in keys:
                await change(database, key, outbox)

    async def shares() -> list[int]:
        rows = await run_sql(
            database,
            "SELECT count(*) FROM outbox_lease WHERE owner IS NOT NULL GROUP BY owner",
        )
        return [row[0] for row in rows]

    async def shares_are(*wanted: int) -> bool:
        return await shares() == list(wanted)

    async with connected(nats_url) as transport, host(days) as ahead, host(-days) as behind:
        await until(lambda: shares_are(32, 32))
        left = "SELECT extract(epoch FROM max(expires_at) - clock_timestamp()) FROM outbox_lease"
        assert -lease < await value(database, left) <= lease
        await write(5)
        await add(database, Flashed(text="x" * 1_500_000), outbox=make_outbox(max_payload=1 << 21))
        await emptied(database)
        assert await value(database, "SELECT attempts FROM outbox_dead") == 10
        ahead.kill()  # what it holds ends by the database's clock, neither in two days nor before
        await write(5)
        await until(lambda: shares_are(64))
        await emptied(database)
        assert await behind.stop() == 0
        assert by_key(await envelopes(transport)) == {key: list(range(1, 11)) for key in keys}


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
