import asyncio

import pytest

from common.testing import PostgresServer, ServerError, ServerInfo, ValkeyServer, _guard
from common.testing._shared import SharedServer
from common.testing._wire import valkey

STARTER = """
import asyncio
from common.testing import PostgresServer
from common.testing._shared import SharedServer
share = SharedServer(PostgresServer(), "key")
print("starting", flush=True)
print(asyncio.run(share.join()), flush=True)
input()
"""


async def test_all_who_join_get_the_same_server_and_the_last_to_leave_ends_it(place):
    with place.python(STARTER, stdin=-1) as other:
        other.stdout.readline()
        share = SharedServer(PostgresServer(), "key")
        url = await share.join()
        assert other.stdout.readline().strip() == url
        other.communicate("\n", timeout=20)
        await asyncio.sleep(3 * _guard.POLL)
        assert len(place.files()) == 1
        share.leave()
        share.leave()
    place.assert_clean()


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3, 0.5])
async def test_when_the_starter_is_killed_midway_somebody_else_starts(place, delay):
    with place.python(STARTER, stdin=-1) as other:
        other.stdout.readline()
        await asyncio.sleep(delay)
        share = SharedServer(PostgresServer(), "key")
        joining = asyncio.create_task(share.join())
        await asyncio.sleep(0.02)
        other.kill()
        other.communicate(timeout=20)
        try:
            assert (await joining).startswith("postgresql://")
            assert len(place.files()) == 1
        finally:
            share.leave()
    place.assert_clean()


async def test_joining_while_the_server_ends_gives_a_running_one(place):
    for delay in (0.0, 0.1, 0.2, 0.21, 0.22, 0.25, 0.3):  # the guard looks every 0.2 s
        share = SharedServer(ValkeyServer(), "key")
        try:
            with valkey(await share.join()) as client:
                assert client.call("PING") == "PONG"
                await asyncio.sleep(2 * _guard.POLL)
                assert client.call("PING") == "PONG"
        finally:
            share.leave()
        await asyncio.sleep(delay)


async def test_a_start_that_fails_leaves_nothing_and_says_why(place):
    with pytest.raises(ServerError, match="no_such_setting"):
        await SharedServer(PostgresServer(settings={"no_such_setting": "1"}), "key").join()
    place.assert_clean()


def test_the_password_is_in_no_repr():
    info = ServerInfo.of("redis://:secret@127.0.0.1:7000/0")
    assert (info.host, info.port) == ("127.0.0.1", 7000)
    assert "secret" not in repr(info)
    assert "secret" not in repr(ValkeyServer(password="secret"))
