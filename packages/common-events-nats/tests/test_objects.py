import asyncio
import io
import os

import nats as nats_py
import pytest
from nats_consuming import Nats

from common.errors import ValidationError
from common.events.nats._objects import CHUNK_BYTES, open_object_store
from common.events.nats._store_errors import (
    BucketNotFound,
    ObjectDamaged,
    ObjectNotFound,
    ObjectTooLarge,
)


@pytest.fixture
async def store(nats: Nats):
    return await open_object_store(nats.connection, nats.api, "calls")


async def messages(nats: Nats) -> int:
    return (await nats.api.request("STREAM.INFO.OBJ_calls"))["state"]["messages"]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1])
async def test_what_was_put_can_be_got(store, size):
    data = os.urandom(size)
    info = await store.put("a b/ü.wav", data)
    assert (info.size, info.chunks) == (size, -(-size // CHUNK_BYTES))
    assert await store.get("a b/ü.wav") == data
    assert await store.info("a b/ü.wav") == info


async def test_pieces_of_any_size_are_put_and_streamed(store):
    pieces = [os.urandom(n) for n in (1, 200_000, 0, 77, 400_000)]

    async def source():
        for piece in pieces:
            yield piece

    await store.put("x", source())
    assert b"".join([part async for part in store.stream("x")]) == b"".join(pieces)


async def test_a_new_object_takes_the_place_of_the_old_and_leaves_nothing_of_it(nats, store):
    await store.put("x", os.urandom(3 * CHUNK_BYTES))
    await store.put("x", b"new")
    assert await store.get("x") == b"new"
    assert await messages(nats) == 2


async def test_an_object_can_be_deleted(nats, store):
    await store.put("x", b"1")
    assert await store.delete("x")
    assert not await store.delete("x")
    assert await store.info("x") is None
    with pytest.raises(ObjectNotFound):
        await store.get("x")
    assert await messages(nats) == 1
    await store.put("x", b"2")
    assert await store.get("x") == b"2"


async def test_nats_py_reads_what_is_written_here_and_the_other_way_round(nats_url, store):
    data = os.urandom(300_000)
    client = await nats_py.connect(nats_url)
    try:
        theirs = await client.jetstream().object_store("calls")
        await store.put("ours", data)
        assert (await theirs.get("ours")).data == data
        await theirs.put("theirs", io.BytesIO(data))
        assert await store.get("theirs") == data
        await theirs.delete("theirs")
        assert await store.info("theirs") is None
    finally:
        await client.close()


async def test_putting_that_fails_or_is_cancelled_leaves_the_old_object_and_no_parts(nats, store):
    await store.put("x", b"old")

    async def broken():
        yield os.urandom(2 * CHUNK_BYTES)
        raise RuntimeError("the disk is gone")

    async def endless():
        while True:
            yield os.urandom(CHUNK_BYTES)
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError):
        await store.put("x", broken())
    for turns in (1, 20, 200):
        putting = asyncio.create_task(store.put("x", endless()))
        for _ in range(turns):
            await asyncio.sleep(0)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    assert await store.get("x") == b"old"
    assert await messages(nats) == 2


async def test_putting_that_is_cancelled_at_its_end_leaves_a_whole_object(store):
    old, new = b"old", os.urandom(CHUNK_BYTES + 1)
    for turns in range(60):
        await store.put("x", old)
        putting = asyncio.create_task(store.put("x", new))
        for _ in range(turns):
            await asyncio.sleep(0)
        putting.cancel()
        await asyncio.wait([putting])
        assert await store.get("x") in {old, new}


async def test_a_damaged_object_is_noticed(nats, store):
    await store.put("x", os.urandom(2 * CHUNK_BYTES))
    await nats.api.request("STREAM.MSG.DELETE.OBJ_calls", {"seq": 2})
    with pytest.raises(ObjectDamaged):
        await store.get("x")


async def test_an_object_replaced_while_it_is_read_is_read_whole(store):
    written = [bytes([n]) * (4 * CHUNK_BYTES) for n in range(30)]
    await store.put("x", written[0])

    async def write() -> None:
        for data in written[1:]:
            await store.put("x", data)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert await store.get("x") in written
    await writing
    assert await store.get("x") == written[-1]


async def test_an_object_deleted_while_it_is_read_is_not_found(store, monkeypatch):
    await store.put("x", os.urandom(4 * CHUNK_BYTES))
    parts = store._parts

    async def deleting(found):
        await store.delete("x")
        async for part in parts(found):
            yield part

    monkeypatch.setattr(store, "_parts", deleting)
    with pytest.raises(ObjectNotFound):
        await store.get("x")


async def test_parts_that_a_crash_has_left_do_not_harm(store, nats):
    """Written only in part: without a description there is no object."""
    await nats.publish("$O.calls.C.left", os.urandom(CHUNK_BYTES))
    assert await store.info("x") is None
    await store.put("x", b"whole")
    assert await store.get("x") == b"whole"


async def test_an_object_larger_than_wanted_is_not_taken(store):
    await store.put("x", bytes(1_000))
    with pytest.raises(ObjectTooLarge) as raised:
        await store.get("x", max_bytes=999)
    assert (raised.value.size, raised.value.limit) == (1_000, 999)


@pytest.mark.parametrize("name", ["", "x" * 513])
async def test_a_name_that_cannot_be_is_refused(store, name):
    with pytest.raises(ValidationError):
        await store.put(name, b"")


async def test_a_missing_bucket_is_only_made_if_wanted(nats: Nats):
    with pytest.raises(BucketNotFound):
        await open_object_store(nats.connection, nats.api, "none", create=False)
    with pytest.raises(ValidationError):
        await open_object_store(nats.connection, nats.api, "a.b")
