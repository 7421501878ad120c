"""The demo as `make demo` runs it: a process of its own, on real servers."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest

# The demo takes ten seconds, on a busy machine several times as long.
pytestmark = pytest.mark.timeout(300)
PATIENCE = 240
SCRIPTS = Path(sysconfig.get_path("scripts"))
LOSSY_DEMO = Path(__file__).parent / "lossy_demo.py"
GOOD = {"phone_number": "+4930123456", "status": "completed", "duration_seconds": 12}


@pytest.fixture
def demo():
    """Start the demo with its servers in a folder of this test's own."""
    # Not tmp_path: servers that run as another user must be able to enter.
    with tempfile.TemporaryDirectory(prefix="demo-") as root:
        Path(root).chmod(0o755)
        place = Path(root).resolve() / "servers"
        place.mkdir(mode=0o755)

        def start(*command, **environment):
            return subprocess.Popen(
                [sys.executable, *(command or ("-m", "demo.main"))],
                env=os.environ | {"COMMON_TESTING_DIRECTORY": str(place)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

        yield start
        deadline = time.monotonic() + 60
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
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "the books balance" in output
    assert "killed calls-api, calls-api-relay and post-processing, starting replacements" in output
    assert "the replacements run" in output
    assert re.search(r"services killed, replaced .* yes ", output), output
    for name in (
        *("calls created", "events published", "calls processed", "results published"),
        "results reported to calls-api",
    ):
        assert re.search(rf"{name} .* 60 ", output), output
    for reason in ("invalid_data", "malformed", "rejected", "unknown_version"):
        assert re.search(rf"  {reason} .* 3 ", output), output


@pytest.mark.parametrize(
    ("service", "missing"),
    [
        ("calls-api", "calls processed"),
        pytest.param("post-processing", "results published", marks=pytest.mark.chaos),
    ],
)
def test_an_event_that_is_really_lost_is_found(demo, service, missing):
    process = demo(LOSSY_DEMO, service, CALLS="20")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    assert "the books do not balance" in output
    found = re.search(rf"{missing} \D+(\d+) ", output)
    assert found is not None, output
    assert int(found[1]) < 20, output
    if service == "calls-api":
        assert "not reported as processed: " in output
    assert f"{service} wrote:" in output


def test_a_users_own_file_with_bad_lines(demo, tmp_path):
    path = tmp_path / "calls.jsonl"
    lines = [json.dumps(GOOD), "{", json.dumps(GOOD | {"status": "failed"}), json.dumps(GOOD)]
    path.write_text("\n".join(lines))
    process = demo(INPUT=str(path))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "line 2: not JSON" in output
    assert "line 3: " in output
    assert "calls processed" in output


def test_a_file_without_any_call_is_an_error_before_anything_starts(demo, tmp_path):
    path = tmp_path / "calls.jsonl"
    path.write_text("{\n[]\n")
    process = demo(INPUT=str(path))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "line 2: not a JSON object" in output
    assert "not one line of INPUT is a call" in output
    assert "starting" not in output


@pytest.mark.parametrize(
    ("number", "moment", "calls"),
    [
        pytest.param(signal.SIGINT, "starting", 100_000, marks=pytest.mark.chaos),
        (signal.SIGINT, "driving", 100_000),
        pytest.param(signal.SIGTERM, "driving", 100_000, marks=pytest.mark.chaos),
        pytest.param(signal.SIGINT, "starting replacements", 60, marks=pytest.mark.chaos),
    ],
)
def test_an_interrupt_leaves_nothing_behind(demo, number, moment, calls):
    process = demo(CALLS=str(calls))
    output = ""
    for line in process.stdout:
        output += line
        if moment in line:
            break
    process.send_signal(number)
    output += process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130, output
    assert "everything is stopped" in output
    assert "Traceback" not in output


@pytest.mark.chaos
def test_it_serves_on_when_asked_to(demo):
    process = demo(CALLS="10", SERVE="1")
    told = {}
    for line in process.stdout:
        name, _, value = line.strip().partition(" ")
        told[name] = value
        if "Ctrl-C stops everything" in line:
            break
    assert process.poll() is None, told
    assert httpx.get(told["API"], trust_env=False, timeout=PATIENCE).status_code == 200
    command, *arguments = told["outbox"].split()
    found = subprocess.run(
        [SCRIPTS / command, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (found.returncode, found.stdout[:11]) == (0, "waiting: 0,"), found
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130


def test_a_killed_demo_leaves_nothing_behind(demo):
    process = demo(CALLS="100000")
    for line in process.stdout:
        if "driving" in line:
            break
    process.kill()
    process.communicate(timeout=PATIENCE)


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
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1
