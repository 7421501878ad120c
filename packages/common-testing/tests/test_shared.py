import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from common.testing import PostgresServer, ServerError, ServerInfo, ValkeyServer, _guard, _shared
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

JOINER = """
import asyncio, shutil, types
from pathlib import Path
from common.testing import ValkeyServer
from common.testing._shared import SharedServer
shutil.disk_usage = lambda _: types.SimpleNamespace(free=0)
share = SharedServer(ValkeyServer(), "key", Path({!r}))
asyncio.run(share.join())
print(share.directory)
"""


def tree(place):
    return list(place.directory.rglob("*"))


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


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
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
    for delay in (0.0, 0.19, 0.2, 0.21, 0.22):  # the guard looks every 0.2 s
        share = SharedServer(ValkeyServer(), "key")
        try:
            with valkey(await share.join()) as client:
                assert client.call("PING") == "PONG"
                await asyncio.sleep(1.5 * _guard.POLL)
                assert client.call("PING") == "PONG"
        finally:
            share.leave()
        await asyncio.sleep(delay)


async def test_what_a_killed_guard_left_before_the_url_was_written_stops_nobody(place):
    with place.python(STARTER, stdin=-1) as other:
        other.stdout.readline()
        place.wait(lambda: any(path.name == _guard.LOCK for path in tree(place)), place.files)
        other.send_signal(signal.SIGSTOP)
        for pid, command in place.processes().items():
            if "_guard.py" in command:
                os.kill(pid, signal.SIGKILL)
        other.kill()
        other.communicate(timeout=20)
    (left,) = place.files()
    assert not (left / _shared.URL_FILE).exists()
    os.utime(left, (time.time() - 10, time.time() - 10))
    share = SharedServer(ValkeyServer(), "key")
    try:
        with valkey(await share.join()) as client:
            assert client.call("PING") == "PONG"
    finally:
        share.leave()
    place.assert_clean()


async def test_a_young_directory_without_url_is_left_to_its_starter(place, monkeypatch):
    monkeypatch.setattr(_shared, "WAIT", 0.3)
    young = place.directory / f"{_guard.PREFIX}key"
    young.mkdir()
    (young / _guard.LOCK).touch()
    with pytest.raises(ServerError, match="did not start it within"):
        await SharedServer(ValkeyServer(), "key").join()
    shutil.rmtree(young)


async def test_the_given_base_is_used_whatever_space_is_free_by_now(place):
    base = place.directory / "base"
    base.mkdir(mode=0o755)
    share = SharedServer(ValkeyServer(), "key", base)
    try:
        await share.join()
        assert share.directory.parent == base
        code = JOINER.format(str(base))
        output = await asyncio.to_thread(
            subprocess.check_output, [sys.executable, "-c", code], text=True
        )
        assert output.strip() == str(share.directory)
    finally:
        share.leave()
    place.wait(lambda: not any(base.iterdir()), lambda: list(base.iterdir()))
    base.rmdir()


async def test_a_start_that_fails_leaves_nothing_and_says_why(place):
    with pytest.raises(ServerError, match="no_such_setting"):
        await SharedServer(PostgresServer(settings={"no_such_setting": "1"}), "key").join()
    place.assert_clean()


def test_the_password_is_in_no_repr():
    info = ServerInfo.of("redis://:secret@127.0.0.1:7000/0")
    assert (info.host, info.port) == ("127.0.0.1", 7000)
    assert "secret" not in repr(info)
    assert "secret" not in repr(ValkeyServer(password="secret"))
