import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from common.testing import _places


class Place:
    """A folder for one test's servers, an environment that leads there, a look at what is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = f"MARK_{uuid.uuid4().hex}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "COMMON_TESTING_DIRECTORY": str(directory),
            self.mark: "1",
        }

    def processes(self) -> dict[int, str]:
        """Those with our mark, or in our folder: PostgreSQL overwrites its environment."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                ours = self.mark.encode() in (entry / "environ").read_bytes()
                ours = ours or (entry / "cwd").readlink().is_relative_to(self.directory)
                if ours and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):
                continue
        return found

    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())

    def wait(self, condition, what, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, what()
            time.sleep(0.02)

    def assert_clean(self, seconds=20):
        """Nothing is left, or goes in a moment: the guard looks at its lock five times a second."""
        self.wait(
            lambda: not self.processes() and not self.files(),
            lambda: f"left behind: {self.processes()} {self.files()}",
            seconds,
        )

    def python(self, code, **options):
        """Run a script in its own session."""
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture
def place(monkeypatch):
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see processes")
    # Not tmp_path: servers that run as another user must be able to enter, and pytest
    # closes its own folder to others whenever a session starts.
    base = _places.base_directory(memory=True, everybody=True, executable=True)
    with tempfile.TemporaryDirectory(prefix="place-", dir=base) as root:
        Path(root).chmod(0o755)
        directory = Path(root).resolve() / "servers"
        directory.mkdir(mode=0o755)
        place = Place(directory)
        monkeypatch.setenv("COMMON_TESTING_DIRECTORY", str(directory))
        monkeypatch.setenv(place.mark, "1")
        yield place
        place.assert_clean()
