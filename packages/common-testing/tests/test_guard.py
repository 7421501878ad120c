import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from common.testing import ManagedProcess, ServerError, _client, _guard

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
USER = """
import asyncio, sys, os, time
from common.testing import ManagedProcess, PostgresServer
{more}
async def main():
    async with {what} as process:
        print(process.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""

HOLDER = """
from pathlib import Path
from common.testing import _client
lock = _client.hold(Path({!r}))
print('held', flush=True)
input()
"""


def sleeper():
    return ManagedProcess(sys.executable, "-c", SLEEPER, ready="up")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def guard_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


SERVICE = f"ManagedProcess(sys.executable, '-c', {SLEEPER!r}, ready='up')"


@pytest.mark.parametrize("what", [SERVICE, "PostgresServer()"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_end_of_its_user_by_any_signal_ends_everything(place, what, number):
    with place.python(USER.format(what=what, more="")) as user:
        pid = int(user.stdout.readline())
        assert is_running(pid)
        user.send_signal(number)
        user.communicate(timeout=30)
    place.assert_clean()
    assert not is_running(pid)


def test_a_paused_server_ends_with_its_user(place):
    code = USER.format(what=SERVICE, more="").replace(
        "print(process.pid", "process.pause(); print(process.pid"
    )
    with place.python(code) as user:
        user.stdout.readline()
        user.kill()
        user.communicate(timeout=30)
    place.assert_clean()


def test_a_child_that_its_user_forked_does_not_keep_it_running(place):
    more = (
        "def fork():\n    if os.fork() == 0:\n        os.close(1); os.close(2); time.sleep(600)\n"
    )
    code = USER.format(what=SERVICE, more=more).replace(
        "print(process.pid", "fork(); print(process.pid"
    )
    with place.python(code) as user:
        pid = int(user.stdout.readline())
        child = next(p for p in place.processes() if is_running(p) and guard_of(p) == user.pid)
        user.kill()
        user.communicate(timeout=30)
    try:
        place.wait(lambda: not is_running(pid) and not place.files(), place.processes)
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_interrupt_of_the_whole_terminal_group_does_not_reach_the_server(place):
    more = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
    with place.python(USER.format(what=SERVICE, more=more), start_new_session=True) as user:
        pid = int(user.stdout.readline())
        os.killpg(user.pid, signal.SIGINT)
        time.sleep(0.1)
        assert is_running(pid)
        user.kill()
        user.communicate(timeout=30)


async def test_a_polite_end_of_the_guard_removes_everything(place):
    process = sleeper()
    await process.start()
    os.kill(guard_of(process.pid), signal.SIGTERM)
    place.assert_clean()
    with pytest.raises(ServerError, match="the guard process is gone, and its server with it"):
        process.kill()
    await process.close()


@pytest.mark.skipif(sys.platform != "linux", reason="death signals exist on Linux only")
async def test_the_server_dies_with_a_killed_guard_and_its_user_removes_the_directory(place):
    process = sleeper()
    await process.start()
    os.kill(guard_of(process.pid), signal.SIGKILL)
    place.wait(lambda: not place.processes(), place.processes)
    with pytest.raises(ServerError, match="the guard process is gone"):
        process.kill()
    assert process.directory.exists()
    await process.close()
    assert place.files() == []


async def test_a_killed_guards_directory_stays_while_others_hold_it_or_if_it_is_anothers(place):
    guard = await _client.GuardClient.launch([place.directory], name="shared")
    assert guard is not None
    guard._control.close()  # as if the guard were gone
    with place.python(HOLDER.format(str(guard.directory)), stdin=-1) as holder:
        assert holder.stdout.readline() == "held\n"
        guard._remove_directories()
        assert guard.directory.exists()
        holder.communicate("\n", timeout=20)
    guard.directory.rename(place.directory / "moved")
    guard.directory.mkdir()
    (guard.directory / _guard.LOCK).touch()
    guard._remove_directories()
    assert guard.directory.exists()
    shutil.rmtree(place.directory / "moved")
    guard.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="death signals exist on Linux only")
async def test_what_a_killed_guard_and_its_killed_user_left_is_swept_by_the_next(place):
    with place.python(USER.format(what=SERVICE, more="")) as user:
        guard = guard_of(int(user.stdout.readline()))
        user.send_signal(signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
        user.kill()
        user.communicate(timeout=30)
    place.wait(lambda: not place.processes(), place.processes)
    (left,) = place.files()

    async with sleeper():
        pass
    assert left.exists(), "it may be young and somebody's"
    os.utime(left, (time.time() - 3600, time.time() - 3600))
    async with sleeper():
        pass
    place.assert_clean()


async def test_sweeping_spares_what_is_in_use(place):
    async with sleeper() as process:
        os.utime(process.directory, (time.time() - 3600, time.time() - 3600))
        async with sleeper():
            pass
        assert process.directory.exists()
        assert process.running


async def test_a_named_directory_is_made_by_one_only(place):
    first, second = await asyncio.gather(
        *(_client.GuardClient.launch([place.directory], name="same") for _ in range(2))
    )
    (winner,) = [guard for guard in (first, second) if guard is not None]
    assert [path.name for path in place.files()] == [f"{_guard.PREFIX}same"]
    winner.leave()


async def test_it_lives_until_the_last_holder_leaves(place):
    guard = await _client.GuardClient.launch([place.directory], name="shared")
    assert guard is not None
    with place.python(HOLDER.format(str(guard.directory)), stdin=-1) as holder:
        assert holder.stdout.readline() == "held\n"
        directory = guard.directory
        guard.leave()
        await asyncio.sleep(3 * _guard.POLL)
        assert directory.exists()
        holder.communicate("\n", timeout=20)
    place.assert_clean()


async def test_a_directory_that_is_going_or_gone_cannot_be_held(place):
    with pytest.raises(FileNotFoundError):
        _client.hold(place.directory / "gone")
    old = place.directory / "old"
    old.mkdir()
    (old / _guard.LOCK).touch()
    code = f"""
import fcntl, os
lock = os.open({str(old / _guard.LOCK)!r}, os.O_RDWR)
fcntl.lockf(lock, fcntl.LOCK_EX)
print('locked', flush=True)
input()
"""
    with place.python(code, stdin=-1) as guard:
        guard.stdout.readline()
        with pytest.raises(FileNotFoundError):
            _client.hold(old)
        guard.communicate("\n", timeout=20)
    shutil.rmtree(old)


async def test_a_server_that_ignores_everything_is_killed_at_the_end(place):
    code = f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEPER}"
    process = ManagedProcess(sys.executable, "-c", code, ready="up", grace=0.1)
    await process.start()
    pid = process.pid
    await process.close()
    assert not is_running(pid)


async def test_an_unwritable_place_is_named(place, monkeypatch):
    monkeypatch.setenv("COMMON_TESTING_DIRECTORY", str(place.directory / "missing"))
    with pytest.raises(ServerError, match=r"missing .*name another with COMMON_TESTING_DIRECTORY"):
        await sleeper().start()
