# pyright: reportAttributeAccessIssue=false

import subprocess
import sys
from importlib.metadata import version

import pytest

import common.domain as package


def test_the_distribution_is_installed_and_exports_what_it_names():
    assert version("common-domain")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_importing_the_package_loads_no_area_and_no_tooling():
    code = "import sys, common.domain; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    own = {name for name in loaded if name.startswith("common.domain.")}
    assert {name for name in own if not name.startswith("common.domain._")} == set()
    assert not loaded & {"common.domain._lock", "argparse", "difflib"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
