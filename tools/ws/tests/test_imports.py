import pytest
from ws._imports import external_imports, sibling_imports

SOURCES = {
    "zoo": "packages/common-zoo/src/common/zoo/_x.py",
    "cat": "packages/common-pets-cat/src/common/pets/cat/_x.py",
}


def test_declared_imports_are_in_order(scratch, complaints):
    scratch.write(
        SOURCES["cat"], "import asyncio\nimport common.pets.core\nfrom common.pets import core"
    )
    assert complaints(sibling_imports) == []
    assert complaints(external_imports) == []


@pytest.mark.parametrize(
    "text",
    [
        "import common.other",
        "from common import other",
        "def late():\n    from common.other import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import common.other",
    ],
)
def test_a_sibling_that_is_not_required_is_reported(scratch, complaints, text):
    scratch.write(SOURCES["cat"], text)
    (found,) = complaints(sibling_imports)
    assert "common-pets-cat: common.pets.cat._x imports common.other (l." in found
    assert "require common-other in pyproject.toml" in found


def test_a_lower_layer_cannot_import_a_higher_one(scratch, complaints):
    scratch.write(SOURCES["zoo"], "import common.pets.core")
    (found,) = complaints(sibling_imports)
    assert "common-zoo: common.zoo._x imports common.pets.core" in found


def test_what_a_sibling_requires_is_not_required(scratch, complaints):
    scratch.write(SOURCES["cat"], "import common.zoo")
    (found,) = complaints(sibling_imports)
    assert "imports common.zoo" in found


def test_a_package_without_its_facade_does_not_stop_the_others(scratch, complaints):
    (scratch.root / "packages/common-other/src/common/other/__init__.py").unlink()
    scratch.write(SOURCES["cat"], "import common.zoo")
    assert len(complaints(sibling_imports)) == 1


def test_broken_source_is_reported_not_passed_over(scratch, complaints):
    scratch.write(SOURCES["cat"], "import (")
    assert complaints(sibling_imports)


@pytest.mark.parametrize(
    "text", ["import yaml", "def late():\n    import yaml", "from yaml import x"]
)
def test_a_third_party_import_is_required_by_its_distribution(scratch, complaints, text):
    scratch.write(SOURCES["cat"], text)
    (found,) = complaints(external_imports)
    assert "common-pets-cat: imports yaml, which it does not require (src/common/pets/cat/" in found
    assert "add pyyaml to dependencies" in found
    scratch.require("common-pets-cat", "PyYAML>=6")
    assert complaints(external_imports) == []


def test_a_third_party_import_of_a_sibling_does_not_count(scratch, complaints):
    scratch.require("common-pets-core", "PyYAML>=6")
    scratch.write(SOURCES["cat"], "import yaml")
    assert "common-pets-cat" in complaints(external_imports)[0]


def test_extras_count_as_required(scratch, complaints):
    scratch.write(SOURCES["zoo"], "def late():\n    import yaml")
    scratch.change(
        "packages/common-zoo/pyproject.toml",
        "[tool.ws]",
        '[project.optional-dependencies]\nyaml = ["pyyaml>=6"]\n\n[tool.ws]',
    )
    assert complaints(external_imports) == []


def test_young_parts_of_the_standard_library_need_no_requirement(scratch, complaints):
    scratch.write(SOURCES["zoo"], "def late():\n    import annotationlib")
    assert complaints(external_imports) == []


def test_several_imports_of_one_module_are_one_complaint(scratch, complaints):
    scratch.write(SOURCES["zoo"], "import yaml\nfrom yaml import a, b")
    (found,) = complaints(external_imports)
    assert "(src/common/zoo/_x.py:1, src/common/zoo/_x.py:2)" in found


def test_what_a_requirement_pins_is_a_part_of_it(scratch, complaints):
    scratch.write(SOURCES["zoo"], "import pydantic_core")
    assert len(complaints(external_imports)) == 1
    scratch.require("common-zoo", "pydantic>=2")
    assert complaints(external_imports) == []
