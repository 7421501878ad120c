"""These need uv and the package index, as every set-up of the workspace does."""

import os
import shutil
import sys

import pytest
from ws._isolate import isolate
from ws._workspace import Workspace

pytestmark = pytest.mark.skipif(
    not (os.environ.get("UV") or shutil.which("uv")), reason="uv is brought by make"
)


@pytest.fixture
def run(scratch):
    def isolated(name: str) -> tuple[list[str], str]:
        said: list[str] = []
        failures = isolate(Workspace(scratch.root), [name], python=sys.executable, say=said.append)
        return failures, "\n".join(said)

    return isolated


def test_a_new_package_passes_untouched_at_both_ends_of_its_requirements(scratch, run):
    scratch.new("common-pets-dog")
    scratch.require_sibling("common-pets-dog", "common-zoo")
    scratch.require("common-pets-dog", "iniconfig>=2.0,<3")
    failures, said = run("common-pets-dog")
    assert failures == []
    assert said.count("1 passed") == 2
    assert "(lowest dependencies): 1 modules import; with common-zoo 0.1.0, iniconfig 2.0.0" in said
    assert "(highest dependencies): 1 modules import; with common-zoo 0.1.0, iniconfig 2." in said


def test_what_the_workspace_hides_comes_to_light(scratch, run):
    source = "packages/common-zoo/src/common/zoo/"
    # Imports of a sibling and of a third party which only the workspace's environment has.
    scratch.write(source + "_late.py", "import common.other\nimport yaml\n")
    failures, said = run("common-zoo")
    assert len(failures) == 2
    assert "common-zoo (lowest dependencies): import of common.zoo ended with 1" in "".join(
        failures
    )
    assert "No module named 'common.other'" in failures[0]
    assert said.count("FAILED") == 2


def test_failing_tests_and_unknown_floors_fail(scratch, run):
    scratch.require("common-zoo", "iniconfig>=900")
    failures, _ = run("common-zoo")
    assert len(failures) == 2
    assert "iniconfig>=900" in failures[0]
    scratch.change("packages/common-zoo/pyproject.toml", "iniconfig>=900", "iniconfig>=2")
    scratch.write(
        "packages/common-zoo/tests/test_more.py",
        "import common.zoo\n"
        "def test_where_it_lies():\n    assert 'site-packages' not in common.zoo.__file__\n",
    )
    failures, _ = run("common-zoo")
    assert len(failures) == 2
    assert "1 failed, 1 passed" in failures[0]


def test_extras_are_not_there_at_first(scratch, run):
    scratch.change(
        "packages/common-zoo/pyproject.toml",
        "[tool.ws]",
        '[project.optional-dependencies]\nini = ["iniconfig>=2"]\n\n[tool.ws]',
    )
    folder = "packages/common-zoo/src/common/zoo/"
    scratch.write(folder + "_ini.py", "import iniconfig\n")
    failures, said = run("common-zoo")
    assert failures == []
    assert "2 modules import; with iniconfig 2.0.0" in said
    scratch.write(folder + "__init__.py", "import common.zoo._ini\n\n__all__: list[str] = []\n")
    failures, _ = run("common-zoo")
    assert "No module named 'iniconfig'" in failures[0]
