"""What every test run of the workspace shares."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import SkipTest
from weakref import WeakKeyDictionary

import pytest
from hypothesis import HealthCheck, settings
from sybil import Document, Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# Every ```python block of every README and documentation page is run as a test.
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["**/README.md", "docs/**/*.md"],
).pytest()

# How long examples take to make says how busy the machine is, not whether the code is right.
settings.register_profile("common", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("common")

_evaluated: WeakKeyDictionary[Document, set[int]] = WeakKeyDictionary()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Run the page's earlier blocks first, where those went to another worker.

    The blocks of a page share their names, and xdist hands out tests one by one.
    """
    if isinstance(item, SybilItem):
        done = _evaluated.setdefault(item.example.document, set())
        for example in item.example.document.examples():
            if example.start < item.example.start and example.start not in done:
                with suppress(SkipTest):
                    example.evaluate()
                done.add(example.start)
        done.add(item.example.start)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for servers more than they compute."""
    return (os.cpu_count() or 1) + 1


PREFIX = "common-tests-"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the run one folder for all its temporary files, which goes when the run ends."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Inherited from a shell's background job; tests of Ctrl-C would hang in their children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") or config.option.basetemp:
        return
    for left in _left_behind():
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    folder.chmod(0o711)  # servers may run as another user
    config.option.basetemp = str(folder / "pytest")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _left_behind() -> Iterator[Path]:
    """Folders of runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid == os.geteuid():
                os.kill(int(folder.name.removeprefix(PREFIX).partition("-")[0]), 0)
        except ProcessLookupError:
            yield folder
        except (OSError, ValueError):
            continue
