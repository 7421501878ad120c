"""The demo as `make demo` runs it: a process of its own, on real servers."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

GOOD = {"phone_number": "+4930123456", "status": "completed", "duration_seconds": 12}


@pytest.fixture
def demo(tmp_path):
    """Start the demo with its temporary files in a folder of this test's own."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o755)
    marker = f"DEMO_TEST={tmp_path.name}-{os.getpid()}"
    name, value = marker.split("=")

    def start(**environment):
        return subprocess.Popen(
            [sys.executable, "-m", "demo.main"],
            env=os.environ | {name: value, "TMPDIR": str(scratch)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    yield start
    assert processes_with(name, value) == []
    assert list(scratch.iterdir()) == []


def processes_with(name, value, *, patience=15):
    deadline = time.monotonic() + patience
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(name) == value and process.pid != os.getpid():
                    found.append(process.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_the_books_balance(demo):
    process = demo(CALLS="60")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "the books balance" in output
    assert "worker killed and restarted" in output


def test_a_users_own_file_with_bad_lines(demo, tmp_path):
    path = tmp_path / "calls.jsonl"
    lines = [json.dumps(GOOD), "{", json.dumps(GOOD | {"status": "failed"}), json.dumps(GOOD)]
    path.write_text("\n".join(lines))
    process = demo(INPUT=str(path))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "line 2: not JSON" in output
    assert "line 3: " in output
    assert "calls processed" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(demo, number):
    process = demo(CALLS="100000")
    output = ""
    for line in process.stdout:
        output += line
        if "driving" in line:
            break
    process.send_signal(number)
    output += process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "everything is stopped" in output
    assert "Traceback" not in output


def test_a_killed_demo_leaves_nothing_behind(demo):
    process = demo(CALLS="100000")
    for line in process.stdout:
        if "driving" in line:
            break
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CALLS": "many"}, "CALLS=many is not a number of calls: use 1 to 1000000"),
        ({"CALLS": "0"}, "CALLS=0 is not a number of calls"),
        ({"INPUT": "nowhere.jsonl"}, "INPUT=nowhere.jsonl cannot be read: No such file"),
        ({"INPUT": os.devnull}, "has no lines"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(demo, environment, message):
    process = demo(**environment)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1
