"""The demo as `make demo` runs it: a process of its own, on real servers."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

GOOD = {"phone_number": "+4930123456", "status": "completed", "duration_seconds": 12}


@pytest.fixture
def demo():
    """Start the demo with its servers in a folder of this test's own."""
    # Not tmp_path: servers that run as another user must be able to enter.
    with tempfile.TemporaryDirectory(prefix="demo-") as root:
        Path(root).chmod(0o755)
        place = Path(root).resolve() / "servers"
        place.mkdir(mode=0o755)

        def start(**environment):
            return subprocess.Popen(
                [sys.executable, "-m", "demo.main"],
                env=os.environ | {"COMMON_TESTING_DIRECTORY": str(place)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

        yield start
        deadline = time.monotonic() + 20
        while left := [*processes_of(place), *place.iterdir()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def processes_of(place):
    """Those started with our folder in their environment, or working in it."""
    for process in psutil.process_iter():
        try:
            environment = process.environ().get("COMMON_TESTING_DIRECTORY")
            # PostgreSQL overwrites its environment.
            if environment == str(place) or Path(process.cwd()).is_relative_to(place):
                yield process.cmdline()
        except (psutil.Error, OSError):
            continue


def test_the_books_balance(demo):
    # Settings for the outside world, which the services on this machine must not obey.
    process = demo(CALLS="60", http_proxy="http://127.0.0.1:9", PGSSLMODE="require")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "the books balance" in output
    assert "worker killed and restarted" in output
    for reason in ("invalid_data", "malformed", "rejected", "unknown_version"):
        assert re.search(rf"  {reason} .* 3 ", output), output


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


def test_a_file_without_any_call_is_an_error(demo, tmp_path):
    path = tmp_path / "calls.jsonl"
    path.write_text("{\n[]\n")
    process = demo(INPUT=str(path))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "line 2: not a JSON object" in output
    assert "not one line of INPUT is a call" in output


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
        ({"INPUT": os.devnull}, "is no file"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(demo, environment, message):
    process = demo(**environment)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1
