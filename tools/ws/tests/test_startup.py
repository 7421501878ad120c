import pytest
from ws._startup import startup

FACADE = "packages/common-zoo/src/common/zoo/__init__.py"
PYPROJECT = "packages/common-zoo/pyproject.toml"
EXTRA = '[project.optional-dependencies]\nyaml = ["pyyaml>=6"]\n\n[tool.ws]'


def test_light_packages_pass_and_are_not_measured_again(scratch, complaints):
    assert complaints(startup) == []
    passed = sorted((scratch.root / ".ws_cache").glob("startup-*.passed"))
    assert len(passed) == 4
    times = [path.stat().st_mtime_ns for path in passed]
    assert complaints(startup) == []
    assert [path.stat().st_mtime_ns for path in passed] == times


def test_a_package_that_cannot_be_imported_is_reported_with_those_that_import_it(
    scratch, complaints
):
    complaints(startup)
    scratch.write(FACADE, "raise RuntimeError('no')")
    found = complaints(startup)
    assert [one.partition(":")[0] for one in found] == ["common-zoo"]
    assert "cannot be imported: RuntimeError: no" in found[0]
    scratch.write("packages/common-pets-core/src/common/pets/core/__init__.py", "import common.zoo")
    names = [one.partition(":")[0] for one in complaints(startup)]
    assert names == ["common-pets-core", "common-zoo"]


def test_a_slow_import_is_over_budget(scratch, complaints):
    # Burns processor time, however fast the machine is.
    scratch.write(
        FACADE,
        "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass",
    )
    (found,) = complaints(startup)
    assert "common-zoo: import common.zoo takes 1" in found
    assert "over 30 ms" in found


def test_what_a_required_dependency_costs_is_not_counted(scratch, complaints):
    scratch.write(
        FACADE,
        "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass",
    )
    scratch.write("packages/common-pets-core/src/common/pets/core/__init__.py", "import common.zoo")
    assert [one.partition(":")[0] for one in complaints(startup)] == ["common-zoo"]


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.stdout.write('hello')",
        "print('hello')",
        "import os\nos.write(2, b'hello')",
        "import atexit\natexit.register(print, 'hello')",
    ],
)
def test_an_import_prints_nothing(scratch, complaints, text):
    scratch.write(FACADE, text)
    # Which does not count against those that need it.
    scratch.write("packages/common-pets-core/src/common/pets/core/__init__.py", "import common.zoo")
    (found,) = [one for one in complaints(startup) if "common-pets-core" not in one]
    assert "common-zoo: import common.zoo prints 'hello'\n    fix: remove the print" in found


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("import os\nos.makedirs('made', exist_ok=True)", "os.mkdir made"),
        ("import os\nif not os.path.exists('made'):\n    os.mkdir('made')", "os.mkdir made"),
        ("def f(): open('log', 'a')\nf()", "open for writing log"),
        ("from pathlib import Path\nPath('log').touch()", "open for writing log"),
        ("import socket\nsocket.socket().bind(('127.0.0.1', 0))", "socket.bind ('127.0.0.1', 0)"),
        (
            "import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))",
            "socket.connect ('127.0.0.1', 9)",
        ),
        ("import subprocess\nsubprocess.run(['true'])", "subprocess.Popen true"),
    ],
)
def test_an_import_does_nothing_to_the_world(scratch, complaints, text, act):
    scratch.write(FACADE, "import common.zoo._x")
    scratch.write("packages/common-zoo/src/common/zoo/_x.py", text)
    scratch.write("packages/common-pets-core/src/common/pets/core/__init__.py", "import common.zoo")
    (found,) = complaints(startup)
    assert f"common-zoo: common.zoo._x does something on import: {act}\n    fix: do it" in found


def test_reading_on_import_and_writing_later_are_allowed(scratch, complaints):
    scratch.write(FACADE, "open(__file__).close()\ndef late():\n    open('log', 'w')")
    assert complaints(startup) == []


def test_an_import_that_ends_the_process_is_reported(scratch, complaints):
    scratch.write(FACADE, "import sys\nsys.exit()")
    (found,) = complaints(startup)
    assert "common-zoo: cannot be imported: no message" in found


def test_an_extra_must_not_be_loaded_on_import(scratch, complaints):
    scratch.change(PYPROJECT, "[tool.ws]", EXTRA)
    scratch.write(FACADE, "import common.zoo._x")
    scratch.write(
        "packages/common-zoo/src/common/zoo/_x.py",
        "try:\n    import yaml\nexcept ImportError:\n    yaml = None",
    )
    (found,) = complaints(startup)
    assert "common-zoo: common.zoo._x loads yaml, of an extra, on import" in found
    assert "fix: import yaml in the function that needs it" in found


def test_an_extra_may_be_loaded_where_it_is_used(scratch, complaints):
    scratch.change(PYPROJECT, "[tool.ws]", EXTRA)
    scratch.write(FACADE, "def late():\n    import yaml\n    return yaml")
    assert complaints(startup) == []
