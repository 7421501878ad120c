import json
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from common.config import (
    BaseAppSettings,
    ConfigError,
    Section,
    deep_merge,
    explain,
    flatten,
    load,
    optional,
)

NOT_AN_INTEGER = "Input should be a valid integer, unable to parse string as an integer"


class Inner(Section):
    depth: int = -1
    label: str = "default"


class Outer(Section):
    size: int = -1
    items: tuple[int, ...] = ()
    inner: Inner = Inner()


class Layered(BaseAppSettings, prefix="LAYERED_"):
    name: str = "default"
    outer: Outer = Outer()
    limits: dict[str, int] = Field(default={})


LAYERS = ["shared", "service", "special", "dotenv", "environ", "secrets", "arguments"]
texts = st.text(string.ascii_letters + string.digits + " -_#:'\"{}[]!&*%", max_size=8)
numbers = st.integers(0, 10**6)
LEAVES = {
    "name": texts,
    "outer.size": numbers,
    "outer.items": st.lists(numbers, max_size=3),
    "outer.inner.depth": numbers,
    "outer.inner.label": texts,
    "limits.a": numbers,
    "limits.b": numbers,
}
layer_values = st.fixed_dictionaries({}, optional=LEAVES)


def nested(flat):
    return deep_merge(
        *({first: nested({rest: value}) if rest else value}
          for path, value in flat.items()
          for first, _, rest in [path.partition(".")])
    )  # fmt: skip


def variable(path):
    return "LAYERED_" + path.upper().replace(".", "__")


def as_text(value):
    return value if isinstance(value, str) else json.dumps(value)


def quoted(text):
    """A value for a .env file."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def load_layers(folder, layers):
    files = []
    for name in LAYERS[:3]:
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(json.dumps(nested(layers[name])))  # JSON is YAML
    dotenv = folder / ".env"
    dotenv.write_text(
        "".join(f"{variable(p)}={quoted(as_text(v))}\n" for p, v in layers["dotenv"].items())
    )
    secrets = folder / "secrets"
    secrets.mkdir()
    for path, value in layers["secrets"].items():
        (secrets / variable(path).lower()).write_text(as_text(value) + "\n")
    return load(
        Layered,
        files=files,
        env_file=dotenv,
        environ={variable(path): as_text(value) for path, value in layers["environ"].items()},
        secrets_dir=secrets,
        **nested(layers["arguments"]),
    )


def layer_of(source):
    if source.kind == "file":
        return Path(source.name).stem
    return {"env-file": "dotenv", "environment": "environ", "secret-file": "secrets",
            "argument": "arguments", "default": "default"}[source.kind]  # fmt: skip


def actual(loaded, path):
    value = loaded
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


@settings(deadline=None, max_examples=60)
@given(st.fixed_dictionaries(dict.fromkeys(LAYERS, layer_values)))
def test_of_every_value_the_highest_layer_wins_and_the_others_are_known(layers):
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_layers(Path(folder), layers)
    for path in LEAVES:
        having = [name for name in reversed(LAYERS) if path in layers[name]]
        if having:
            assert actual(loaded, path) == layers[having[0]][path]
            explanation = explain(loaded, path)
            assert layer_of(explanation.source) == having[0]
            assert [layer_of(each) for each in explanation.overridden] == having[1:]
        elif path in {"limits.a", "limits.b"}:
            assert path.partition(".")[2] not in loaded.limits
        else:
            assert actual(loaded, path) == actual(Layered(), path)
            assert explain(loaded, path).source.kind == "default"


@settings(deadline=None, max_examples=30)
@given(st.fixed_dictionaries(dict.fromkeys(LAYERS, layer_values)))
def test_loading_merges_as_deep_merge_does(layers):
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_layers(Path(folder), layers)
    merged = deep_merge(*(nested(layers[name]) for name in LAYERS))
    for path, value in flatten(merged).items():
        assert actual(loaded, path) == value


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_lists_replace_and_mappings_merge(tmp_path):
    low = write(tmp_path, "a.yaml", "outer: {items: [1, 2, 3], size: 4}\nlimits: {a: 1}\n")
    high = write(tmp_path, "b.yaml", "outer: {items: [9]}\nlimits: {b: 2}\n")
    loaded = load(Layered, files=[low, high], environ={})
    assert (loaded.outer.items, loaded.outer.size) == ((9,), 4)
    assert loaded.limits == {"a": 1, "b": 2}


def test_one_file_may_be_given_without_a_list(tmp_path):
    path = write(tmp_path, "a.yaml", "name: x")
    assert load(Layered, files=path, environ={}).name == "x"
    assert load(Layered, files=str(path), environ={}).name == "x"
    assert load(Layered, files=optional(path), environ={}).name == "x"


def test_a_field_wins_over_its_section_in_the_same_layer():
    environ = {"LAYERED_OUTER__SIZE": "2", "LAYERED_OUTER": '{"size": 1, "items": [1]}'}
    other_way_round = dict(reversed(environ.items()))
    assert load(Layered, environ=environ) == load(Layered, environ=other_way_round)
    loaded = load(Layered, environ=environ)
    assert (loaded.outer.size, loaded.outer.items) == (2, (1,))
    assert str(explain(loaded, "outer.items").source) == "LAYERED_OUTER"
    assert str(explain(loaded, "outer.size")) == (
        "outer.size = 2 from LAYERED_OUTER__SIZE (over LAYERED_OUTER)"
    )


def test_arguments_may_be_sections_themselves():
    loaded = load(Layered, environ={"LAYERED_OUTER__SIZE": "2"}, outer=Outer(size=7))
    assert loaded.outer == Outer(size=7)


def test_arguments_that_contain_themselves_are_a_problem():
    cycle: dict[str, Any] = {}
    cycle["limits"] = cycle
    with pytest.raises(ConfigError, match=r"limits \(argument\): is nested deeper than 64 levels"):
        load(Layered, environ={}, **cycle)


def test_settings_cannot_be_changed(tmp_path):
    loaded = load(Layered, environ={})
    with pytest.raises(ValueError, match="frozen"):
        loaded.name = "x"
    with pytest.raises(ValueError, match="frozen"):
        loaded.outer.inner.label = "x"


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    base = write(tmp_path, "base.yaml", "nmae: x\nouter:\n  size: many\n  inner: {dept: 1}\n")
    dotenv = write(tmp_path, ".env", "LAYERED_OUTER__ITEMS=1,2\n")
    with pytest.raises(ConfigError) as caught:
        load(
            Layered,
            files=[base, tmp_path / "prod.yaml"],
            env_file=dotenv,
            environ={"LAYERED_OUTER__INNER__DEPHT": "1", "LAYERED_LIMITS__A": "x"},
            name={1: 2},
        )
    error = caught.value
    assert str(error).splitlines() == [
        "8 problems in the configuration of Layered",
        f"  {tmp_path}/prod.yaml: there is no such file; create it, or mark it as optional",
        (
            f"  outer.items ({dotenv}:1): is not JSON (line 1, column 2); "
            'this field takes a JSON list, such as ["a", "b"]'
        ),
        (
            "  unknown variable LAYERED_OUTER__INNER__DEPHT; did you mean "
            '"LAYERED_OUTER__INNER__DEPTH"?'
        ),
        "  name (argument): keys are text, but one here is int",
        f'  nmae ({base}:1): unknown key; did you mean "name"?',
        f'  outer.inner.dept ({base}:4): unknown key; did you mean "depth"?',
        f"  outer.size ({base}:3): {NOT_AN_INTEGER}",
        f"  limits.a (LAYERED_LIMITS__A): {NOT_AN_INTEGER}",
    ]
    assert (error.code, error.status, error.retryable) == ("CONFIG_ERROR", 500, False)
    described: Any = error.to_dict()["details"]
    assert described["problems"][4] == {
        "path": "nmae",
        "source": f"{base}:1",
        "message": 'unknown key; did you mean "name"?',
    }


def test_the_error_stands_alone():
    with pytest.raises(ConfigError) as caught:
        load(Layered, environ={"LAYERED_OUTER__SIZE": "x"})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_what_is_missing_is_not_told_while_a_file_cannot_be_read(tmp_path):
    class Strict(BaseAppSettings, prefix="STRICT_"):
        name: str
        size: int = 1

    with pytest.raises(ConfigError) as caught:
        load(Strict, files=tmp_path / "gone.yaml", environ={"STRICT_SIZE": "x"})
    assert [each.path for each in caught.value.problems] == ["", "size"]
    with pytest.raises(ConfigError) as caught:
        load(Strict, environ={"STRICT_SIZE": "x"})
    assert next(str(each) for each in caught.value.problems) == (
        "name: is required; set STRICT_NAME, or give the key in a file"
    )


def test_calling_the_class_reads_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERED_NAME", "environment")
    write(tmp_path, ".env", "LAYERED_NAME=dotenv")
    assert Layered().name == "default"
    assert Layered.model_validate({}).name == "default"
    with pytest.raises(ValueError, match="_env_file"):
        Layered.model_validate({"_env_file": ".env"})


def test_settings_with_the_same_values_are_equal_wherever_they_come_from():
    assert load(Layered, environ={"LAYERED_NAME": "x"}) == Layered(name="x")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000])
def test_a_number_that_is_too_long_is_told_once(tmp_path, number):
    class Settings(BaseAppSettings, prefix="X_"):
        n: int
        password: str = ""

    (tmp_path / "f.yaml").write_text(f"password: {number}\nn: {number}\n")
    with pytest.raises(ConfigError) as caught:
        load(Settings, files=tmp_path / "f.yaml", environ={})
    assert [(each.source, each.message) for each in caught.value.problems] == [
        (f"{tmp_path}/f.yaml:{line}", "the number has more than 1000 characters, the most allowed")
        for line in (1, 2)
    ]
