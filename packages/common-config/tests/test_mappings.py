import copy
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import deep_merge, flatten

keys = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(
    st.dictionaries(
        keys, st.none() | st.integers() | st.lists(st.integers(), max_size=2), max_size=4
    ),
    lambda inner: st.dictionaries(keys, inner | st.integers(), max_size=4),
    max_leaves=12,
)


def value_at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def paths_of(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from paths_of(value, (*path, key))
        else:
            yield (*path, key)


@given(st.lists(trees, max_size=4))
def test_several_layers_are_merged_one_after_the_other(layers):
    assert deep_merge(*layers) == reduce(deep_merge, layers, {})


@given(trees)
def test_an_empty_mapping_changes_nothing(a):
    assert deep_merge(a, {}) == deep_merge({}, a) == deep_merge(a, a) == a


@given(trees, trees)
def test_every_value_of_the_higher_layer_is_in_the_result(low, high):
    merged = deep_merge(low, high)
    for path in paths_of(high):
        value = value_at(high, path)
        if value != {}:  # an empty mapping is merged into what is there
            assert value_at(merged, path) == value


@given(trees, trees)
def test_lower_values_stay_unless_something_above_replaces_them(low, high):
    merged = deep_merge(low, high)
    for path in paths_of(low):
        replaced = False
        above = high
        for key in path:
            if not isinstance(above, dict) or key not in above:
                break
            above = above[key]
        else:
            replaced = True
        if not replaced and isinstance(above, dict):
            assert value_at(merged, path) == value_at(low, path)


@given(trees, trees)
def test_the_layers_are_left_as_they_are(low, high):
    before = copy.deepcopy((low, high))
    merged = deep_merge(low, high)
    for key, value in list(merged.items()):
        if isinstance(value, dict):
            value["added"] = 1
        merged[key] = "changed"
    assert (low, high) == before


@given(trees)
def test_a_flat_mapping_holds_every_value_and_can_be_rebuilt(tree):
    flat = flatten(tree)
    rebuilt = {}
    for path, value in flat.items():
        *above, last = path.split(".")
        at = rebuilt
        for key in above:
            at = at.setdefault(key, {})
        at[last] = value
    assert rebuilt == tree
    assert set(flat) == {".".join(path) for path in paths_of(tree)}


@given(trees, trees)
def test_flat_keys_of_a_merge_come_from_its_layers(low, high):
    assert set(flatten(deep_merge(low, high))) <= set(flatten(low)) | set(flatten(high))


def test_a_key_with_the_separator_in_it_is_refused_instead_of_confused():
    with pytest.raises(ValueError, match=r"'a\.b'.*separator"):
        flatten({"a.b": 1, "a": {"b": 2}})
    assert flatten({"a.b": 1, "a": {"b": 2}}, separator="/") == {"a.b": 1, "a/b": 2}
