import pytest
from ws._template import drift, new
from ws._workspace import WorkspaceError


def test_a_new_package_has_not_drifted(complaints):
    assert complaints(drift) == []


@pytest.mark.parametrize(
    "file", ["LICENSE", "README.md", "CHANGELOG.md", "changes/.gitkeep", "src/common/zoo/py.typed"]
)
def test_a_missing_file_is_reported(scratch, complaints, file):
    (scratch.root / "packages/common-zoo" / file).unlink()
    (found,) = complaints(drift)
    assert f"common-zoo: {file} is missing" in found


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("LICENSE", "Do what you want.", "LICENSE differs from the template"),
        ("README.md", "# Zoo\n", "README.md has another title"),
        ("CHANGELOG.md", "# Changelog of common-zoo\n", "CHANGELOG.md has lost its head"),
    ],
)
def test_a_changed_file_is_reported(scratch, complaints, file, text, problem):
    scratch.write(f"packages/common-zoo/{file}", text)
    (found,) = complaints(drift)
    assert f"common-zoo: {problem}" in found


def test_readme_and_changelog_may_grow(scratch, complaints):
    for file in ("README.md", "CHANGELOG.md"):
        path = scratch.root / "packages/common-zoo" / file
        path.write_text(path.read_text("utf-8") + "\nMore.\n", "utf-8")
    assert complaints(drift) == []


@pytest.mark.parametrize(
    ("old", "new_", "problem"),
    [
        ('">=3.11"', '">=3.12"', "project.requires-python is '>=3.12'"),
        ('    "Typing :: Typed",\n', "", "lacks classifiers ['Typing :: Typed']"),
        (
            "[build-system]",
            "[tool.ruff]\nline-length = 79\n\n[build-system]",
            "tool.ruff is not in",
        ),
        ('["src/common"]', '["src/common/zoo"]', "tool.hatch.build.targets.wheel.packages is"),
        (
            "[build-system]",
            "[tool.uv]\nmanaged = false\n\n[build-system]",
            "tool.uv.managed is not",
        ),
        ('license = "Apache-2.0"\n', "", "project.license is None"),
    ],
)
def test_what_a_package_does_not_own_follows_the_template(scratch, complaints, old, new_, problem):
    scratch.change("packages/common-zoo/pyproject.toml", old, new_)
    (found,) = complaints(drift)
    assert problem in found


def test_what_a_package_owns_is_its_own(scratch, complaints):
    file = "packages/common-zoo/pyproject.toml"
    scratch.change(file, 'version = "0.1.0"', 'version = "1.4.2"')
    scratch.change(file, "dependencies = []", 'keywords = ["zoo"]\ndependencies = ["rich>=14"]')
    scratch.change(file, '    "Typing ::', '    "Topic :: Database",\n    "Typing ::')
    scratch.change(
        file, "[tool.ws]", '[project.scripts]\nzoo = "common.zoo:main"\n\n[tool.ws]\npeers = []'
    )
    assert complaints(drift) == []


def test_the_layer_is_guessed_from_a_core(scratch):
    workspace = scratch.load()
    layers = {member.name: member.layer for member in workspace.packages}
    assert layers == {
        "common-zoo": 0,
        "common-other": 2,
        "common-pets-core": 2,
        "common-pets-cat": 3,
    }


def test_the_layer_can_be_given(scratch):
    scratch.new("common-pets-dog", layer=1)
    assert scratch.load().members["common-pets-dog"].layer == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no name for a package"),
        ("foo", "use common-<words>"),
        ("common-Foo", "use common-<words>"),
        ("common_foo", "use common-<words>"),
        ("common-../../evil", "use common-<words>"),
        ("common", "use common-<words>"),
        ("common-class", "none of them a keyword of Python"),
        ("common-async-db", "none of them a keyword of Python"),
        ("common-zoo", "exists already"),
        ("common-zoo-inner", "cannot both exist"),
        ("common-pets", "cannot both exist"),
    ],
)
def test_a_bad_name_is_one_clear_line(scratch, name, message):
    before = sorted(scratch.root.rglob("*"))
    with pytest.raises(WorkspaceError) as caught:
        new(scratch.load(), name, layer=None, description=None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in sorted(scratch.root.rglob("*")) if path not in before] == [
        path for path in [scratch.root / ".ws_cache"] if path not in before
    ]


@pytest.mark.parametrize("description", ['say "x"', "two\nlines", "{{ name }}", "x" * 91])
def test_a_description_that_would_break_the_files_is_refused(scratch, description):
    with pytest.raises(WorkspaceError, match="description cannot be used"):
        new(scratch.load(), "common-fine", layer=None, description=description)
