import json
import subprocess
import sys
from pathlib import Path

import pytest

SOLD = """
from common.domain import Event

class Sold(Event, type="shop.sold", key="order_id"):
    order_id: str
    state: str
"""


@pytest.fixture
def run(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "common.domain", *arguments],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_service_locks_and_checks_its_own_types(run, tmp_path):
    (tmp_path / "shop.py").write_text(SOLD)
    assert run("lock", "shop").returncode == 0
    lock = tmp_path / "schema-lock.json"
    assert list(json.loads(lock.read_text())["types"]) == ["shop.sold"]
    assert run("check", "shop").returncode == 0

    (tmp_path / "shop.py").write_text(SOLD + "    note: str | None = None\n")
    added = run("check", "shop")
    assert (added.returncode, "behind the code" in added.stdout) == (1, True)
    assert run("lock", "shop").returncode == 0
    assert "compatible with schema-lock.json: 1 type\n" in run("check", "shop").stdout
    (tmp_path / "shop.py").write_text(SOLD)
    assert run("lock", "--force", "shop").returncode == 0

    (tmp_path / "shop.py").write_text(SOLD.replace("state: str", "state: int"))
    broken = run("check", "shop")
    assert broken.returncode == 1
    assert "shop.sold v1: $.state: type changed from string to integer" in broken.stdout
    assert "incompatible with schema-lock.json: 2 changes" in broken.stdout
    assert "fix: declare version 2 with @upcast(1)" in broken.stdout

    before = lock.read_text()
    assert run("lock", "shop").returncode == 1
    assert lock.read_text() == before, "an incompatible lock was written"
    assert run("lock", "--force", "shop").returncode == 0
    assert run("check", "shop").returncode == 0


def test_one_direction_can_be_checked_alone(run, tmp_path):
    (tmp_path / "shop.py").write_text(SOLD)
    run("lock", "shop")
    (tmp_path / "shop.py").write_text(SOLD.replace("state: str", "state: str | None"))
    backward = run("check", "--direction", "backward", "shop")
    assert "incompatible" not in backward.stdout
    forward = run("check", "--direction", "forward", "shop")
    assert (forward.returncode, "1 change\n" in forward.stdout) == (1, True)


def test_without_modules_it_is_about_the_vocabulary(run, tmp_path):
    assert run("lock", "--lock", "own.json").returncode == 0
    assert len(json.loads((tmp_path / "own.json").read_text())["types"]) == 39


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["check", "--lock", "missing.json"], "missing.json: there is no lock yet: write one"),
        (["check", "--lock", "."], "directory"),
        (["check", "--lock", "bad.json"], "no schema lock"),
        (["check", "no_such_module"], "no_such_module"),
        (["lock", "json"], "declare no message types"),
        ([], "usage"),
    ],
)
def test_what_cannot_be_done_is_status_2_with_one_line(run, tmp_path, arguments, problem):
    (tmp_path / "bad.json").write_text("{}")
    done = run(*arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("class", "SyntaxError: invalid syntax"),
        ("{}['x']", "KeyError: 'x'"),
        (SOLD + SOLD.replace("class Sold", "class Other"), "which shop.Sold has already"),
        (SOLD.replace("state: str", "state: 'Missing'"), "Sold"),
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one (for the traceback"),
    ],
    ids=["syntax", "exception", "duplicate", "unresolved", "several-lines"],
)
@pytest.mark.parametrize("command", ["lock", "check"])
def test_modules_that_cannot_be_used_are_status_2_with_one_line(
    run, tmp_path, command, code, problem
):
    (tmp_path / "shop.py").write_text(code)
    (tmp_path / "schema-lock.json").write_text('{"format": 1, "types": {}}')
    done = run(command, "shop")
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
