import pytest
from packaging.version import Version
from ws._requirements import next_breaking, requirements
from ws._workspace import WorkspaceError

CAT = "packages/common-pets-cat/pyproject.toml"
WANTED = "common-pets-core>=0.1,<0.2"


def test_ranges_of_the_template_are_in_order(complaints):
    assert complaints(requirements) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("common-pets-core>=0.1", "has no cap before 0.2"),
        ("common-pets-core>=0.1,<1", "has no cap before 0.2"),
        ("common-pets-core~=0.1", "has no floor"),
        ("common-pets-core<0.2", "has no floor"),
        ("common-pets-core>=0.2,<0.2", "leaves out common-pets-core 0.1.0, the current version"),
        ("common-pets-core>=0.0.1,<0.1", "leaves out common-pets-core 0.1.0"),
        ("common-pets-core>=0.1,<0.2,!=0.1.0", "leaves out common-pets-core 0.1.0"),
    ],
)
def test_a_range_has_a_floor_a_cap_and_the_current_version(scratch, complaints, line, problem):
    scratch.change(CAT, WANTED, line)
    found = complaints(requirements)
    assert problem in found[0]
    assert f'write "{WANTED}"' in found[0]


def test_a_range_follows_the_sibling_beyond_1_0(scratch, complaints):
    core = "packages/common-pets-core/pyproject.toml"
    scratch.change(core, 'version = "0.1.0"', 'version = "1.4.2"')
    assert 'write "common-pets-core>=1.4,<2"' in complaints(requirements)[0]
    scratch.change(CAT, WANTED, "common-pets-core>=1.2,<2")
    assert complaints(requirements) == []
    scratch.change(CAT, ">=1.2,<2", ">=1.5,<2")
    (found,) = complaints(requirements)
    assert 'write "common-pets-core>=1.4,<2"' in found


@pytest.mark.parametrize(
    ("version", "next_"), [("0.1.0", "0.2"), ("0.9.3", "0.10"), ("1.0.0", "2"), ("12.4.1", "13")]
)
def test_the_next_version_that_may_break(version, next_):
    assert next_breaking(Version(version)) == Version(next_)


def test_extras_are_requirements_too(scratch, complaints):
    scratch.change(
        "packages/common-other/pyproject.toml",
        "[tool.ws]",
        '[project.optional-dependencies]\nzoo = ["common-zoo>=0.1"]\n\n[tool.ws]',
    )
    found = complaints(requirements)
    assert "common-zoo>=0.1 has no cap" in found[0]
    assert "common-zoo has no workspace source" in found[1]


def test_a_sibling_comes_from_the_workspace(scratch, complaints):
    scratch.change(CAT, "common-pets-core = { workspace = true }\n", "")
    (found,) = complaints(requirements)
    assert "common-pets-core has no workspace source" in found
    assert "add common-pets-core = { workspace = true } to [tool.uv.sources]" in found


@pytest.mark.parametrize("layer", [2, 1])
def test_requirements_point_to_lower_layers(scratch, complaints, layer):
    scratch.change(CAT, "layer = 3", f"layer = {layer}")
    (found,) = complaints(requirements)
    assert f"common-pets-cat: is of layer {layer} and requires common-pets-core of 2" in found


def test_a_peer_of_the_same_layer_may_be_named_a_higher_one_never(scratch, complaints):
    scratch.change(CAT, "layer = 3", 'layer = 2\npeers = ["common-pets-core"]')
    assert complaints(requirements) == []
    scratch.change(CAT, "layer = 2", "layer = 1")
    assert len(complaints(requirements)) == 1


def test_every_package_declares_its_layer(scratch, complaints):
    scratch.change(CAT, "layer = 3", "")
    assert "common-pets-cat: declares no layer" in complaints(requirements)[0]


def test_nothing_requires_what_is_for_tests_or_never_published(scratch, complaints):
    scratch.new("common-testing", layer=0)
    scratch.require_sibling("common-other", "common-testing")
    scratch.require("common-other", "shop>=0,<0.1")
    found = "\n".join(complaints(requirements))
    assert "common-other: requires common-testing, which is for tests only" in found
    assert "common-other: requires shop, which is never published" in found


def test_a_test_kit_may_require_what_is_for_tests(scratch, complaints):
    scratch.new("common-testing", layer=0)
    scratch.require_sibling("common-other", "common-testing")
    line = '"common-testing>=0.1,<0.2"'
    scratch.change("packages/common-other/pyproject.toml", f"    {line},\n", "")
    extra = f"[project.optional-dependencies]\ntesting = [{line}]\n\n[tool.ws]"
    scratch.change("packages/common-other/pyproject.toml", "[tool.ws]", extra)
    assert complaints(requirements) == []


def test_a_circle_is_an_error_that_names_it(scratch):
    scratch.require_sibling("common-zoo", "common-pets-cat")
    with pytest.raises(WorkspaceError, match=r"common-zoo.* in a circle: move"):
        list(requirements(scratch.load()))
