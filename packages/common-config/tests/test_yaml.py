import math
from typing import Any

import pytest
import yaml

from common.config import _yaml
from common.config._node import plain

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if hasattr(yaml, "CSafeLoader") else [])]


@pytest.fixture(autouse=True, params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request, monkeypatch):
    """Both parsers that PyYAML may have."""
    monkeypatch.setattr(_yaml, "_LOADER", request.param)


def values(text) -> Any:
    branch, problems = _yaml.parse(text, "f.yaml")
    assert problems == []
    assert branch is not None
    return plain(branch)


def problems(text):
    _, found = _yaml.parse(text, "f.yaml")
    assert found, "no problem was found"
    return [str(each) for each in found]


def test_plain_scalars_follow_the_core_schema_of_yaml_1_2():
    text = """
    country: no
    switch: on
    time: 22:30
    zip: 0123
    hex: 0x1f
    octal: 0o17
    float: 1e3
    day: 2026-11-15
    yes: true
    none: ~
    empty:
    text: "12"
    inf: -.inf
    version: 1.10.0
    """
    assert values(text) == {
        "country": "no", "switch": "on", "time": "22:30", "zip": 123, "hex": 31, "octal": 15,
        "float": 1000.0, "day": "2026-11-15", "yes": True, "none": None, "empty": None,
        "text": "12", "inf": -math.inf, "version": "1.10.0",
    }  # fmt: skip


def test_not_a_number_is_a_number():
    assert math.isnan(values("a: .nan")["a"])


def test_every_value_knows_the_line_of_its_key():
    branch: Any
    branch, _ = _yaml.parse("a: 1\nb:\n  c:\n    x\n  d: [1,\n    2]\n", "f.yaml")
    assert str(branch.children["a"].source) == "f.yaml:1"
    assert str(branch.children["b"].source) == "f.yaml:2"
    assert str(branch.children["b"].children["c"].source) == "f.yaml:3"
    assert [str(i.source) for i in branch.children["b"].children["d"].items] == [
        "f.yaml:5",
        "f.yaml:6",
    ]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n", "---\n...\n"])
def test_a_file_without_content_is_an_empty_mapping(text):
    assert values(text) == {}


def test_all_duplicate_keys_are_refused_with_both_lines():
    text = "db:\n  host: a\n  port: 1\n  host: b\nname: x\nname: y\n"
    assert problems(text) == [
        'f.yaml:4: the key "host" stands twice in one mapping, also on line 2; remove one',
        'f.yaml:6: the key "name" stands twice in one mapping, also on line 5; remove one',
    ]


def test_the_same_key_in_two_mappings_is_fine():
    assert values('a: {"": 1, k: 2}\nb: {"": 3, k: 4}') == {
        "a": {"": 1, "k": 2},
        "b": {"": 3, "k": 4},
    }


def test_an_empty_key_twice_is_a_duplicate():
    assert "twice" in problems('"": 1\n"": 2\n')[0]


@pytest.mark.parametrize("text", ["db:\n\thost: x\n", "db:\n  \thost: x\n  port: 1\n"])
def test_tabs_are_named(text):
    assert problems(text) == ["f.yaml:2: is indented with a tab; YAML wants spaces"]


def test_aliases_are_refused_before_they_can_grow():
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{','.join([f'*{above}'] * 9)}]\n"
    assert problems(bomb) == [
        (
            "f.yaml:2: anchors and aliases are not supported; write the value out, or put what is "
            "shared into a file of a lower layer"
        )
    ]


def test_merge_keys_are_refused():
    assert "merge keys are not supported" in problems("a:\n  <<: {b: 1}\n")[0]
    assert values('"<<": 1') == {"<<": 1}


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [ls]", "!Secret x", "!!str 1", "! x"]
)
def test_tags_make_nothing(tag):
    found = problems(f"a:\n  b: {tag}\n")
    assert found[0].startswith('f.yaml:2: tags (words that begin with "!") are not supported')


def test_a_second_document_is_refused():
    assert problems("a: 1\n---\nb: 2\n") == [
        "f.yaml:2: a second document begins here; keep one document in a file"
    ]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "42\n"])
def test_the_root_must_be_a_mapping(text):
    assert problems(text) == ["f.yaml:1: the file must be a mapping of keys to values"]


@pytest.mark.parametrize("key", ["1", "true", "~", "1.5", "? " + "9" * 5000 + "\n"])
def test_keys_must_be_text(key):
    found = problems(f"a: 1\n{key}: 2\n")[0]
    assert found.startswith("f.yaml:2: the key ")
    assert found.endswith(" is not text; put it in quotes")
    assert len(found) < 200


def test_a_mapping_cannot_be_a_key():
    assert "a key must be text" in problems("? {a: 1}\n: 2\n")[0]


def test_depth_is_bounded():
    assert "deeper than 64 levels" in problems("a: " + "[" * 100_000)[0]
    assert values("a: " + "[" * 63 + "]" * 63)


def test_the_number_of_values_is_bounded():
    assert "more than 100000 values" in problems("a: [" + "1," * 100_001 + "]")[0]


@pytest.mark.parametrize(
    "number", ["9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 5000, "1." + "0" * 1000]
)
@pytest.mark.parametrize("text", ["a: {}", "a: [{}]", "{}"])
def test_a_number_with_too_many_digits_is_a_problem_not_a_crash(text, number):
    assert problems(text.format(number)) == [
        "f.yaml:1: the number has more than 1000 characters, the most allowed"
    ]


def test_text_may_be_longer_than_a_number():
    assert values(f"a: '{'9' * 5000}'\nb: {'x' * 5000}") == {"a": "9" * 5000, "b": "x" * 5000}


def test_control_characters_are_named_with_their_line():
    assert problems("a: 1\nb: \x07\n") == [
        "f.yaml:2: contains a control character, which YAML does not allow; remove it"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2\n",
        "a: {b: 1\n",
        'a: "x\n',
        "a: b: c\n",
        "a: 1\n b: 2\n",
        "%FOO\n",
        "a: @x\n",
        "*x\n: y",
    ],
)
def test_broken_syntax_gives_one_problem_with_a_line(text):
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith("f.yaml:")


@pytest.mark.parametrize(
    "text",
    [
        "password: *canary-7f3a\n",
        "password: &canary-7f3a\n",
        "password: !canary-7f3a x\n",
        "password: !canary-7f3a!x y\n",
        "password: 'canary-7f3a\n",
        'password: "canary-7f3a\\q"\n',
        "password: canary-7f3a: x\n",
        "password: canary-7f3a\n\tuser: x\n",
        "password: %canary-7f3a\n- canary-7f3a",
        "canary-7f3a",
        "password: [canary-7f3a\n",
    ],
)
def test_no_problem_repeats_a_value(text):
    _, found = _yaml.parse(text, "f.yaml")
    assert "canary" not in repr(found)
