import asyncio
from datetime import timedelta

import pytest
from nats_consuming import Nats, connected

from common.context import DeadlineExceeded, deadline
from common.errors import AppError, ValidationError
from common.events.core._errors import BrokerUnavailable, MessageTooLarge
from common.events.nats._key_value import open_key_value
from common.events.nats._store_errors import BucketNotFound, KeyExists, RevisionConflict
from common.testing import NatsServer


@pytest.fixture
async def bucket(nats: Nats):
    return await open_key_value(nats.connection, "sessions", history=3)


async def test_what_was_put_can_be_got_until_it_is_deleted(bucket):
    assert await bucket.get("a.b") is None
    revision = await bucket.put("a.b", b"\x00one")
    found = await bucket.get("a.b")
    assert (found.key, found.value, found.revision) == ("a.b", b"\x00one", revision)
    assert await bucket.put("a.b", b"") == revision + 1
    assert (await bucket.get("a.b")).value == b""
    await bucket.delete("a.b")
    assert await bucket.get("a.b") is None
    await bucket.delete("never.there")


async def test_only_one_of_many_creates_a_key(bucket):
    results = await asyncio.gather(
        *(bucket.create("lock", b"%d" % n) for n in range(10)), return_exceptions=True
    )
    assert len([r for r in results if isinstance(r, int)]) == 1
    assert len([r for r in results if isinstance(r, KeyExists)]) == 9
    await bucket.delete("lock")
    assert await bucket.create("lock", b"again") > 0


async def test_only_one_of_many_updates_a_revision(bucket):
    revision = await bucket.put("counter", b"0")
    results = await asyncio.gather(
        *(bucket.update("counter", b"1", revision=revision) for _ in range(10)),
        return_exceptions=True,
    )
    assert len([r for r in results if isinstance(r, int)]) == 1
    conflicts = [r for r in results if isinstance(r, RevisionConflict)]
    assert len(conflicts) == 9
    assert conflicts[0].key == "counter"
    with pytest.raises(RevisionConflict):
        await bucket.delete("counter", revision=revision)
    assert (await bucket.get("counter")).value == b"1"


async def test_keys_are_listed_by_pattern_without_deleted_ones(bucket):
    assert await bucket.keys() == []
    for key in ("a.1", "a.2", "b.1", "gone"):
        await bucket.put(key, b"x")
    await bucket.delete("gone")
    assert sorted(await bucket.keys()) == ["a.1", "a.2", "b.1"]
    assert sorted(await bucket.keys("a.*")) == ["a.1", "a.2"]
    with pytest.raises(ValidationError, match="more than 2"):
        await bucket.keys(limit=2)


async def test_a_watch_shows_what_is_there_and_what_changes(bucket):
    await bucket.put("a", b"1")
    async with bucket.watch() as changes:
        assert (await anext(changes)).value == b"1"
        await bucket.put("a", b"2")
        assert (await anext(changes)).value == b"2"
        await bucket.delete("a")
        last = await anext(changes)
        assert (last.key, last.deleted) == ("a", True)


async def test_watches_and_listings_leave_no_subscription_behind(nats: Nats, bucket):
    await bucket.put("a", b"1")
    before = len(nats.connection.nc._subs)
    for _ in range(5):
        await bucket.keys()
        async with bucket.watch() as changes:
            await anext(changes)
    assert len(nats.connection.nc._subs) <= before + 1  # nats-py's own for answers


@pytest.mark.parametrize("key", ["", ".a", "a.", "a..b", "a b", "a*", ">", "a\r\nb", "x" * 257])
async def test_a_key_that_would_break_a_subject_is_refused(bucket, key):
    with pytest.raises(ValidationError, match="a key has"):
        await bucket.put(key, b"")


async def test_a_pattern_that_would_break_a_subject_is_refused(bucket):
    with pytest.raises(ValidationError, match="pattern"):
        await bucket.keys("a b")


async def test_a_value_too_large_is_refused_before_it_is_sent_and_by_the_bucket(nats, bucket):
    with pytest.raises(MessageTooLarge):
        await bucket.put("a", bytes(2 << 20))
    small = await open_key_value(nats.connection, "small", max_value_bytes=10)
    with pytest.raises(AppError):
        await small.put("a", bytes(11))


async def test_values_expire(nats: Nats):
    bucket = await open_key_value(nats.connection, "brief", ttl=timedelta(seconds=1))
    await bucket.put("a", b"1")
    async with asyncio.timeout(60):
        while await bucket.get("a") is not None:
            await asyncio.sleep(0.05)


async def test_a_missing_bucket_is_only_made_if_wanted(nats: Nats):
    with pytest.raises(BucketNotFound, match="nothing"):
        await open_key_value(nats.connection, "nothing", create=False)
    await open_key_value(nats.connection, "nothing")
    await open_key_value(nats.connection, "nothing", create=False)


@pytest.mark.parametrize(
    ("name", "history"), [("a.b", 1), ("", 1), ("a b", 1), ("a", 0), ("a", 65)]
)
async def test_settings_that_cannot_be_are_refused(nats: Nats, name, history):
    with pytest.raises(ValidationError):
        await open_key_value(nats.connection, name, history=history)


async def test_without_a_server_calls_end_in_time():
    async with NatsServer() as server, connected(server.url) as nats:
        bucket = await open_key_value(nats.connection, "b", timeout=0.5)
        await bucket.put("a", b"1")
        server.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                await bucket.get("a")
            with pytest.raises((BrokerUnavailable, DeadlineExceeded)):
                async with deadline(0.1):
                    await bucket.put("a", b"2")
        finally:
            server.resume()
