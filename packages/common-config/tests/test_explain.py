import pytest
from pydantic import Field

from common.config import (
    BaseAppSettings,
    ConfigError,
    Explanation,
    Section,
    Source,
    explain,
    explain_all,
    load,
)


class Inner(Section):
    a: int = 1
    b: tuple[int, ...] = (1, 2)


class App(BaseAppSettings, prefix="APP_"):
    inner: Inner = Inner()
    items: list[Inner] = Field(default=[])
    free: dict[str, int] = Field(default={})
    text: str = "x"


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("inner:\n  a: 2\nitems:\n- a: 1\n- a: 2\nfree: {k: 1}\n")
    (tmp_path / "prod.yaml").write_text("\n\ninner: {a: 3}\n")
    (tmp_path / ".env").write_text("APP_INNER__A=4\n")
    return load(
        App, files=["base.yaml", "prod.yaml"], env_file=".env", environ={"APP_FREE__L": "2"}
    )


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("inner.a", "inner.a = 4 from .env:1 (over prod.yaml:3, base.yaml:2)"),
        ("inner.b", "inner.b = [1, 2] from default"),
        ("inner.b.1", "inner.b.1 = 2 from default"),
        ("inner", 'inner = {"a": 4, "b": [1, 2]} from .env:1 (over prod.yaml:3, base.yaml:1)'),
        ("items", 'items = [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [1, 2]}] from base.yaml:3'),
        ("items.1.a", "items.1.a = 2 from base.yaml:5"),
        ("items.1.b", "items.1.b = [1, 2] from default"),
        ("free.k", "free.k = 1 from base.yaml:6"),
        ("free.l", "free.l = 2 from APP_FREE__L"),
        ("text", 'text = "x" from default'),
    ],
)
def test_the_source_of_a_value(app, path, shown):
    assert str(explain(app, path)) == shown


def test_an_explanation_is_data(app):
    assert explain(app, "inner.a") == Explanation(
        path="inner.a",
        value="4",
        source=Source("env-file", ".env", 1),
        overridden=(Source("file", "prod.yaml", 3), Source("file", "base.yaml", 2)),
    )


@pytest.mark.parametrize(
    ("path", "close"),
    [
        ("inner.aa", ""),
        ("iner.a", '; did you mean "inner"?'),
        ("inner.a.b", ""),
        ("items.2", ""),
        ("items.-1", ""),
        ("", ""),
        ("free.zz", ""),
        ("model_config", ""),
    ],
)
def test_an_unknown_path_is_an_error(app, path, close):
    with pytest.raises(ConfigError) as caught:
        explain(app, path)
    assert caught.value.problems[0].message == f"there is no such value{close}"


def test_all_values_are_explained_in_the_order_of_the_fields(app):
    assert [each.path for each in explain_all(app)] == [
        "inner.a", "inner.b", "items", "free.k", "free.l", "text",
    ]  # fmt: skip


def test_settings_that_were_not_loaded_know_arguments_from_defaults():
    app = App(inner=Inner(a=5), free={"k": 1})
    assert [str(each.source) for each in explain_all(app) if each.path != "items"] == [
        "argument", "default", "argument", "default",
    ]  # fmt: skip
    assert str(explain(App(), "inner.a").source) == "default"


def test_a_section_given_as_an_object_is_an_argument():
    app = load(App, environ={"APP_INNER__A": "3"}, inner=Inner(a=9))
    assert str(explain(app, "inner.a")) == "inner.a = 9 from argument"
    assert str(explain(app, "inner")).endswith("from argument (over APP_INNER__A)")


def test_a_changed_copy_says_what_was_changed(app):
    changed = app.model_copy(update={"text": "y", "inner": Inner(a=7)})
    assert str(explain(changed, "text")) == 'text = "y" from argument'
    assert str(explain(changed, "inner.a").source) == "argument"
    assert str(explain(changed, "free.k").source) == "base.yaml:6"
    assert str(explain(app, "inner.a").source) == ".env:1"
