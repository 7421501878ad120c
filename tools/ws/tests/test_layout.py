import shutil

import pytest
from ws._layout import layout, wheels


def test_a_package_as_the_template_makes_it_is_in_order(complaints):
    assert complaints(layout) == []
    assert complaints(wheels) == []


def test_an_init_file_in_a_namespace_is_to_be_deleted(scratch, complaints):
    scratch.write("packages/common-pets-cat/src/common/__init__.py", "")
    scratch.write("packages/common-pets-cat/src/common/pets/__init__.py", "")
    found = complaints(layout)
    assert len(found) == 2
    assert "common-pets-cat: src/common/pets/__init__.py exists" in found[0]
    assert "fix: delete src/common/__init__.py" in found[1]


def test_files_outside_the_leaf_are_to_be_moved(scratch, complaints):
    scratch.write("packages/common-pets-cat/src/common/pets/dog/__init__.py", "")
    scratch.write("packages/common-pets-cat/src/loose.py", "")
    found = complaints(layout)
    assert [one.splitlines()[0] for one in found] == [
        "common-pets-cat: src/common/pets/dog/__init__.py is outside the package",
        "common-pets-cat: src/loose.py is outside the package",
    ]
    assert "move it under src/common/pets/cat" in found[0]
    assert "common-pets-cat: its wheel would install common/pets/dog/" in complaints(wheels)[0]


def test_a_missing_package_is_reported(scratch, complaints):
    (scratch.root / "packages/common-zoo/src/common/zoo/__init__.py").unlink()
    assert "common-zoo: src/common/zoo/__init__.py is missing" in complaints(layout)[0]


def test_a_folder_has_the_name_of_its_distribution(scratch, complaints):
    (scratch.root / "packages/common-other").rename(scratch.root / "packages/other")
    assert "common-other: lies in packages/other" in complaints(layout)[0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("common-class", "'common-class' is no name for a package"),
        ("common-3d", "'common-3d' is no name for a package"),
        ("common-zoo-sub", "common-zoo-sub and common-zoo cannot both exist: common.zoo would"),
    ],
)
def test_a_name_that_cannot_be_imported_is_reported_once(scratch, complaints, name, problem):
    leaf = name.replace("-", "/")
    shutil.copytree(scratch.root / "packages/common-other", scratch.root / "packages" / name)
    scratch.change(f"packages/{name}/pyproject.toml", "common-other", name)
    source = scratch.root / "packages" / name / "src"
    (source / leaf).parent.mkdir(parents=True, exist_ok=True)
    (source / "common/other").rename(source / leaf)
    (found,) = complaints(layout)
    assert problem in found
    assert "fix: rename the distribution" in found


def test_soft_keywords_are_names(scratch, complaints):
    scratch.new("common-match")
    assert complaints(layout) == []


def test_changelog_fragments_have_a_known_type_and_say_something(scratch, complaints):
    changes = "packages/common-zoo/changes/"
    for name in ("+good.feature.md", "12.fix.md", "12.fix.1.md"):
        scratch.write(changes + name, "Better.\n")
    assert complaints(layout) == []
    scratch.write(changes + "+bad.feat.md", "Better.\n")
    scratch.write(changes + "bad.fix.md", "Better.\n")
    scratch.write(changes + "+empty.fix.md", "\n")
    found = complaints(layout)
    assert len(found) == 3
    assert "+bad.feat.md is no changelog fragment" in found[0]
    assert "one of feature, fix" in found[0]
    assert "+empty.fix.md is empty" in found[1]


def test_a_wheel_that_would_overwrite_another_package_is_caught(scratch, complaints):
    scratch.new("common-redis")
    scratch.change("packages/common-redis/pyproject.toml", '["src/common"]', '["src/common/redis"]')
    (found,) = complaints(wheels)
    assert "common-redis: its wheel would install redis/" in found
    assert 'packages = ["src/common"]' in found


def test_a_wheel_that_cannot_be_built_is_one_complaint(scratch, complaints):
    (scratch.root / "packages/common-zoo/README.md").unlink()
    (found,) = complaints(wheels)
    assert "common-zoo: its wheel cannot be built" in found
