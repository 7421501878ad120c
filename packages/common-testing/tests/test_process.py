import asyncio
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from common.testing import FaultProxy, ManagedProcess, ServerError, ValkeyServer, reserve_port

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
# A parent with a child and a grandchild that has a session of its own, all writing a counter.
FAMILY = """
import os, sys, time
def count(name):
    number = 0
    while True:
        number += 1
        open(name + '.new', 'w').write(str(number))
        os.replace(name + '.new', name)
        time.sleep(0.005)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        count('grandchild')
    count('child')
print('up', flush=True)
count('parent')
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(600)
"""
# Memory of its own to give back for each thread, so that they end one after another.
THREADS = """
import threading, time
def work():
    held = bytearray(1 << 20)
    while True:
        held[0] = 1
        time.sleep(0.001)
for _ in range(64):
    threading.Thread(target=work, daemon=True).start()
print('up', flush=True)
time.sleep(600)
"""
MEMBERS = ("parent", "child", "grandchild")


def python(code, **options):
    return ManagedProcess(sys.executable, "-c", code, **options)


def counts(directory: Path):
    return [int((directory / name).read_text()) for name in MEMBERS]


async def until_all_count(directory: Path):
    async with asyncio.timeout(20):
        while not all((directory / name).exists() for name in MEMBERS):
            await asyncio.sleep(0.01)


async def until_all_move(directory: Path):
    before = counts(directory)
    async with asyncio.timeout(20):
        while not all(now > then for now, then in zip(counts(directory), before, strict=True)):
            await asyncio.sleep(0.01)


async def test_a_process_runs_to_its_end_with_its_output_and_return_code(place):
    code = "import os; print('out'); print(os.environ['GIVEN'], os.getcwd()); raise SystemExit(3)"
    async with python(code, env={"GIVEN": "value"}, cwd=place.directory) as process:
        assert await process.wait(20) == 3
        assert process.output() == f"out\nvalue {place.directory}\n"
        assert not process.running
        assert process.directory.is_dir()
    place.assert_clean()


async def test_its_standard_input_is_empty(place):
    async with python("import sys; print(repr(sys.stdin.read()))") as process:
        assert await process.wait(20) == 0
        assert process.output() == "''\n"


@pytest.mark.parametrize("ready", ["up", re.compile("^u", re.MULTILINE)])
async def test_start_waits_for_text_in_the_output(place, ready):
    async with python(SLEEPER, ready=ready) as process:
        assert "up" in process.output()


async def test_text_of_an_earlier_run_does_not_count_as_ready(place):
    code = "import os; print('up' if not os.path.exists('flag') else '', flush=True)"
    async with python(
        f"{code}; open('flag', 'w'); import time; time.sleep(600)",
        ready="up",
        cwd=place.directory.parent,
    ) as process:
        process.kill()
        process._ready_timeout = 0.3
        with pytest.raises(ServerError, match=r"not ready after 0\.3 s"):
            await process.restart()


async def test_start_waits_for_a_port(place):
    with reserve_port() as port:
        code = (
            "import socket, time; time.sleep(0.3); "
            f"server = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
        )
        async with python(code, ready=port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()


async def test_start_waits_for_a_function_sync_or_async(place):
    asked = []

    async def ready():
        asked.append(1)
        return len(asked) > 3

    async with python(SLEEPER, ready=ready):
        assert len(asked) == 4
    async with python(SLEEPER, ready=lambda: len(asked) == 4):
        pass


async def test_an_early_end_shows_the_last_output_and_leaves_nothing(place):
    with pytest.raises(ServerError, match=r"ended early, with return code 7\n    no such thing"):
        await python("print('no such thing'); raise SystemExit(7)", ready="never").start()
    place.assert_clean()


async def test_a_program_that_does_not_exist_is_named(place):
    with pytest.raises(ServerError, match="no-such-program: No such file"):
        await ManagedProcess("/no-such-program").start()
    place.assert_clean()


@pytest.mark.parametrize(
    ("argument", "env"), [("a\0b", {}), ("a", {"NAME": "a\0b"}), ("a", {"A=B": "c"})]
)
async def test_what_cannot_be_passed_to_a_program_is_said_and_leaves_nothing(place, argument, env):
    with pytest.raises(ServerError, match=r"ValueError: (embedded null|illegal environment)"):
        await ManagedProcess("/bin/echo", argument, env=env).start()
    place.assert_clean()


async def test_a_refused_request_does_not_end_the_server(place):
    async with python(SLEEPER, ready="up") as process:
        with pytest.raises(ServerError, match="OverflowError"):
            process.send_signal(1 << 70)
        with pytest.raises(ServerError, match="OverflowError"):
            process._ask("reserve", port=70_000)
        assert process.running


async def test_stop_asks_first_and_kills_after_the_grace(place):
    async with python(SLEEPER, ready="up") as process:
        assert await process.stop() == -signal.SIGTERM
    async with python(STUBBORN, ready="up") as process:
        assert await process.stop(grace=0.2) == -signal.SIGKILL
        assert not process.running


async def test_a_stopped_process_can_be_stopped_again_and_started_again(place):
    async with python(SLEEPER, ready="up") as process:
        first = process.pid
        await process.stop()
        assert await process.stop() == -signal.SIGTERM
        await process.start()
        assert process.running
        assert process.pid != first
        assert process.output() == "up\nup\n"


async def test_kill_reaches_all_descendants_before_it_returns(place):
    async with python(FAMILY, cwd=place.directory.parent, ready="up") as process:
        await until_all_count(place.directory.parent)
        process.kill()
        assert process.returncode == -signal.SIGKILL
        before = counts(place.directory.parent)
        await asyncio.sleep(0.1)
        assert counts(place.directory.parent) == before


async def test_a_killed_process_with_threads_can_be_started_again_at_once(place):
    """Its main thread ends first, and the process is a zombie until the others have."""
    async with python(THREADS, ready="up") as process:
        for _ in range(20):
            process.kill()
            assert process.returncode == -signal.SIGKILL
            await process.start()


async def test_pause_stops_all_descendants_before_it_returns_and_resume_lets_them_go_on(place):
    async with python(FAMILY, cwd=place.directory.parent, ready="up") as process:
        await until_all_count(place.directory.parent)
        process.pause()
        assert process.running
        before = counts(place.directory.parent)
        await asyncio.sleep(0.1)
        assert counts(place.directory.parent) == before
        process.resume()
        await until_all_move(place.directory.parent)


async def test_orphans_of_an_ended_process_are_ended_with_it(place):
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    async with python(code) as process:
        assert await process.wait(20) == 0
    place.assert_clean()


async def test_a_paused_process_can_be_stopped_and_closed(place):
    async with python(SLEEPER, ready="up") as process:
        process.pause()
        assert await process.stop() == -signal.SIGTERM
        await process.start()
        process.pause()
    place.assert_clean()


async def test_a_closed_or_unstarted_process_says_what_to_do(place):
    process = python(SLEEPER)
    with pytest.raises(ServerError, match="not started: use 'async with'"):
        process.kill()
    await process.start()
    await process.close()
    await process.close()
    assert not process.running


async def test_signals_to_an_ended_process_are_refused(place):
    async with python("") as process:
        await process.wait(20)
        with pytest.raises(ServerError, match="not running"):
            process.send_signal(signal.SIGTERM)


async def test_wait_gives_up_in_time(place):
    async with python(SLEEPER) as process:
        with pytest.raises(TimeoutError):
            await process.wait(0.05)
        assert process.running


async def test_the_log_can_be_a_file_of_the_caller(place, tmp_path):
    log = tmp_path / "mine.log"
    async with python("print('hello')", log=log) as process:
        await process.wait(20)
    assert log.read_text() == "hello\n"


async def test_a_process_started_in_one_loop_is_used_in_another(place):
    process = python(SLEEPER, ready="up")
    await asyncio.to_thread(asyncio.run, process.start())
    try:
        process.kill()
        await asyncio.to_thread(asyncio.run, process.restart())
    finally:
        await process.close()


async def test_cancelling_the_start_at_any_moment_leaves_nothing(place):
    for milliseconds in (0, 1, 3, 10, 20, 30, 40, 60, 90):
        task = asyncio.create_task(python(SLEEPER, ready="never").start())
        await asyncio.sleep(milliseconds / 1000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    place.assert_clean()


async def test_a_cancelled_wait_does_not_confuse_later_answers(place):
    async with python(SLEEPER) as process:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await process.wait(0.003)
        assert process.running
        assert await process.stop() == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="ports are held on Linux only")
def test_a_reserved_port_is_refused_to_others_but_not_to_its_server():
    with reserve_port() as port:
        with (
            pytest.raises(ServerError, match="cannot be used"),
            socket.create_server(("127.0.0.1", port)),
            reserve_port(port),
        ):
            pass
        with pytest.raises(OSError), socket.socket() as thief:
            thief.bind(("127.0.0.1", port))
        for _ in range(2):  # listen, stop, listen again
            with socket.create_server(("127.0.0.1", port)):
                pass


@pytest.mark.parametrize("port", [-1, 65536, 70_000])
async def test_a_number_that_is_no_port_is_one_line_that_says_what_to_do(place, port):
    message = f"^{port} is not a port: choose one from 1 to 65535"
    with pytest.raises(ServerError, match=message), reserve_port(port):
        pass
    with pytest.raises(ServerError, match=message):
        await FaultProxy("localhost:1", port=port).start()
    with pytest.raises(ServerError, match=message):
        await ValkeyServer(port=port).start()
    place.assert_clean()


def test_a_port_that_somebody_listens_on_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(ServerError, match=f"port {port} of 127.0.0.1 cannot be used"),
            reserve_port(port),
        ):
            pass
