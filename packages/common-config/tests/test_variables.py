from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    SecretBytes,
    SecretStr,
    create_model,
)
from typing_extensions import TypedDict

from common.config import BaseAppSettings, ConfigError, EnvPrefix, Section, explain, load
from common.config._settings import names_for

Name = NewType("Name", str)


class Leaf(Section):
    kind: Literal["leaf"] = "leaf"
    weight: float = 0


class Twig(Section):
    kind: Literal["twig"] = "twig"
    leaves: int = 0
    next: "Twig | None" = None


class Tree(Section):
    part: Annotated[Leaf | Twig, Field(discriminator="kind")] = Leaf()
    maybe: Leaf | None = None


class Roots(RootModel[list[int]]):
    model_config = ConfigDict(frozen=True)


class Wood(BaseAppSettings, prefix="WOOD_"):
    tree: Tree = Tree()
    parts: dict[str, Leaf] = Field(default={})
    counts: Mapping[str, dict[str, int]] = Field(default={})
    anything: Any = None
    anything_by_key: dict[str, Any] = Field(default={})
    number: int | None = None
    text: str | None = None
    names: frozenset[Name] = frozenset()
    either: list[str] | str = "x"
    listed: list[Leaf] = Field(default=[])
    parsed: Json[list[int]] = Field(default="[]", validate_default=True)
    roots: Roots = Roots([])
    raw: bytes = b""
    secret_bytes: SecretBytes = SecretBytes(b"")
    aliased: int = Field(default=0, alias="Other-Name")


def loaded(**environ):
    return load(Wood, environ={f"WOOD_{name}": text for name, text in environ.items()})


def refused(settings: Any = Wood, **environ: Any):
    prefix = settings.model_config["env_prefix"]
    with pytest.raises(ConfigError) as caught:
        load(settings, environ={prefix + name: text for name, text in environ.items()})
    return [str(each) for each in caught.value.problems]


def test_variables_reach_into_sections_unions_and_optional_sections():
    wood = loaded(TREE__PART__KIND="twig", TREE__PART__LEAVES="3", TREE__MAYBE__WEIGHT="0.5")
    assert wood.tree == Tree(part=Twig(leaves=3), maybe=Leaf(weight=0.5))


def test_names_do_not_depend_on_case():
    assert load(Wood, environ={"wood_Tree__Maybe__Weight": "2"}).tree.maybe == Leaf(weight=2)


def test_variables_reach_into_mappings_whose_keys_are_lower_case():
    wood = loaded(PARTS__OAK__WEIGHT="2", COUNTS__A__B_C="3", ANYTHING_BY_KEY__A__B="4")
    assert wood.parts == {"oak": Leaf(weight=2)}
    assert wood.counts == {"a": {"b_c": 3}}
    assert wood.anything_by_key == {"a": {"b": "4"}}


def test_unknown_fields_below_a_mapping_are_unknown():
    assert refused(PARTS__OAK__WIEGHT="2") == [
        'unknown variable WOOD_PARTS__OAK__WIEGHT; did you mean "WOOD_PARTS__OAK__WEIGHT"?'
    ]


def test_containers_take_json():
    wood = loaded(
        NAMES='["a", "b"]',
        LISTED='[{"weight": 1}]',
        PARTS='{"oak": {"weight": 2}}',
        TREE='{"part": {"kind": "twig", "next": {"leaves": 1}}}',
        ROOTS="[1, 2]",
        PARSED="[3]",
    )
    assert wood.names == {"a", "b"}
    assert wood.listed == [Leaf(weight=1)]
    assert wood.parts == {"oak": Leaf(weight=2)}
    assert wood.tree.part == Twig(next=Twig(leaves=1))
    assert wood.roots == Roots([1, 2])
    assert wood.parsed == [3]


def test_text_that_could_be_a_list_is_one_only_where_it_looks_like_json():
    assert loaded(EITHER="a,b").either == "a,b"
    assert loaded(EITHER='["a", "b"]').either == ["a", "b"]


@pytest.mark.parametrize("text", ["canary", "canary,x", "", "{'canary': 1}", "[canary]"])
def test_what_is_not_json_is_refused_with_an_example(text):
    (problem,) = refused(NAMES=text)
    assert problem.startswith("names (WOOD_NAMES): is not JSON (line 1, column ")
    assert problem.endswith('this field takes a JSON list, such as ["a", "b"]')
    assert "canary" not in problem
    assert "such as {" in refused(PARTS=text)[0]


def test_json_is_strict():
    twice = '{"a": {}, "a": {}}'
    assert "same key twice" in refused(PARTS=twice)[0]
    assert "out of range" in refused(ANYTHING_BY_KEY='{"a": NaN}')[0]
    assert "nested too deep" in refused(NAMES="[" * 100_000)[0]
    assert "deeper than 64 levels" in refused(NAMES="[" * 70 + "]" * 70)[0]
    assert "deeper than 64 levels" in refused(NAMES="[" * 900 + "]" * 900)[0]


def test_infinities_are_no_json():
    assert "out of range" in refused(LISTED='[{"weight": Infinity}]')[0]


def test_a_scalar_is_not_a_section():
    assert refused(TREE="5")[0].startswith("tree (WOOD_TREE): Input should be a valid dictionary")


def test_empty_text_is_none_only_where_text_is_not_wanted():
    wood = loaded(NUMBER="", TEXT="", ANYTHING="")
    assert (wood.number, wood.text, wood.anything) == (None, "", "")
    assert "valid integer" in refused(TREE__PART__KIND="twig", TREE__PART__LEAVES="")[0]


def test_bytes_are_taken_as_utf8():
    wood = loaded(RAW="ä", SECRET_BYTES="ö")
    assert wood.raw == "ä".encode()
    assert wood.secret_bytes.get_secret_value() == "ö".encode()


def test_a_field_with_an_alias_is_known_by_the_alias_alone(tmp_path):
    assert load(Wood, environ={"WOOD_OTHER-NAME": "1"}).aliased == 1
    (tmp_path / "a.yaml").write_text("Other-Name: 2")
    wood = load(Wood, environ={}, files=tmp_path / "a.yaml")
    assert wood.aliased == 2
    assert str(explain(wood, "Other-Name").source) == f"{tmp_path}/a.yaml:1"
    (tmp_path / "a.yaml").write_text("aliased: 2")
    with pytest.raises(ConfigError, match="unknown key"):
        load(Wood, environ={}, files=tmp_path / "a.yaml")


def test_only_variables_with_the_prefix_are_looked_at():
    assert load(Wood, environ={"WOO_TEXT": "x", "WOODTEXT": "x", "TEXT": "x"}) == Wood()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WOOD_TREE__MAYBE__WIEGHT", "WOOD_TREE__MAYBE__WEIGHT"),
        ("WOOD_TREE_MAYBE_WEIGHT", "WOOD_TREE__MAYBE__WEIGHT"),
        ("WOOD_NUMBR", "WOOD_NUMBER"),
        ("WOOD_ZZZZ", None),
    ],
)
def test_unknown_variables_are_errors_with_a_suggestion(name, meant):
    close = f'; did you mean "{meant}"?' if meant else ""
    assert refused(**{name.removeprefix("WOOD_"): "canary"}) == [f"unknown variable {name}{close}"]


def test_a_hostile_name_is_printed_harmlessly():
    (problem,) = refused(**{"\x1b[31m\n" + "A" * 5000: "x"})
    assert problem.startswith("unknown variable WOOD_?[31M?AAA".replace("31M", "31m"))
    assert len(problem) < 200


def test_variables_of_others_with_the_same_beginning_can_be_ignored():
    class Orders(BaseAppSettings, prefix="ORDERS_", ignore_prefixes=["ORDERS_ADMIN_"]):
        name: str = "x"

    class Derived(Orders, ignore_prefixes=["ORDERS_JOBS_"]):
        pass

    environ = {"ORDERS_ADMIN_NAME": "y"}
    assert load(Orders, environ=environ).name == "x"
    assert (
        load(Derived, environ={**environ, "ORDERS_JOBS_NAME": "z", "ORDERS_NAME": "w"}).name == "w"
    )
    assert refused(Orders, JOBS_NAME="z")


def test_a_section_may_have_a_prefix_of_its_own():
    class Db(Section):
        host: str = ""
        options: dict[str, int] = Field(default={})

    class Settings(BaseAppSettings, prefix="CREDIT_"):
        db: Annotated[Db, EnvPrefix("CREDIT_DB_")] = Db()
        ledger: Annotated[Db | None, EnvPrefix("LEDGER_DB_")] = None

    environ = {"CREDIT_DB_HOST": "a", "CREDIT_DB_OPTIONS__X": "1", "LEDGER_DB_HOST": "b"}
    settings = load(Settings, environ=environ)
    assert settings.db == Db(host="a", options={"x": 1})
    assert settings.ledger == Db(host="b")
    assert str(explain(settings, "db.host").source) == "CREDIT_DB_HOST"
    assert refused(Settings, DB_HOTS="a") == [
        'unknown variable CREDIT_DB_HOTS; did you mean "CREDIT_DB_HOST"?'
    ]
    with pytest.raises(ConfigError, match='LEDGER_DB_HOSTT; did you mean "LEDGER_DB_HOST"'):
        load(Settings, environ={"LEDGER_DB_HOSTT": "a"})
    with pytest.raises(ConfigError, match="CREDIT_DB__HOST"):
        load(Settings, environ={"CREDIT_DB__HOST": "a"})


def test_all_variables_are_listed_with_type_and_default():
    listed = {each.name: each for each in names_for(Wood).variables}
    assert listed["WOOD_TREE__PART__KIND"].shape.label == '"leaf" or "twig"'
    assert listed["WOOD_NUMBER"].shape.label == "int or null"
    assert listed["WOOD_NAMES"].shape.label == "JSON list"
    assert listed["WOOD_TREE__MAYBE"].shape.label == "JSON object (Leaf) or null"
    assert listed["WOOD_PARTS__<KEY>"].path == (
        "parts",
        "<key>",
    )
    assert listed["WOOD_EITHER"].default == '"x"'
    assert listed["WOOD_SECRET_BYTES"].default == '"**********"'


# Classes that cannot be used


class Plain(BaseModel):
    a: int = 0


@dataclass
class Data:
    a: int = 0


class Typed(TypedDict):
    a: int


class Several(Section):
    a: int = Field(default=0, validation_alias=AliasChoices("b", "c"))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Plain, "Plain is a section of settings.*common.config.Section"),
        (list[Plain], "Plain is a section"),
        (dict[str, Plain | None], "Plain is a section"),
        (Data, "Data cannot be part of settings"),
        (Typed | None, "Typed cannot be part of settings"),
        (Several, "Several.a has several names"),
        (Annotated[int, EnvPrefix("X_")], "has an EnvPrefix, but is not a section"),
    ],
)
def test_types_that_would_let_mistakes_pass_are_refused(annotation, message):
    class Settings(BaseAppSettings, prefix="X_"):
        field: annotation | None = None  # pyright: ignore[reportInvalidTypeForm]

    with pytest.raises(TypeError, match=message):
        load(Settings, environ={})


def test_two_fields_for_one_variable_are_refused():
    class Db(Section):
        host: str = ""

    class Settings(BaseAppSettings, prefix="X_"):
        db_host: str = ""
        db: Annotated[Db, EnvPrefix("X_DB_")] = Db()

    with pytest.raises(TypeError, match=r"db_host and db\.host would both be set by X_DB_HOST"):
        load(Settings, environ={})


def test_names_that_look_like_paths_are_refused():
    class Settings(BaseAppSettings, prefix="X_"):
        a__b: int = 0

    with pytest.raises(TypeError, match=r'"__" and "\." stand between'):
        load(Settings, environ={})


def test_a_class_without_a_prefix_cannot_be_loaded():
    class Settings(BaseAppSettings):
        a: int = 0

    assert Settings(a=1).a == 1
    with pytest.raises(TypeError, match="has no prefix"):
        load(Settings, environ={})


@pytest.mark.parametrize("prefix", ["", "orders_", "ORDERS", "_", "1_", "A B_"])
def test_a_prefix_that_is_none_is_refused_when_the_class_is_declared(prefix):
    with pytest.raises(ValueError, match="is not a prefix"):
        type("Settings", (BaseAppSettings,), {}, prefix=prefix)
    with pytest.raises(ValueError, match="is not a prefix"):
        EnvPrefix(prefix)


@pytest.mark.parametrize("name", ["files", "env_file", "secrets_dir", "environ"])
def test_a_field_cannot_have_the_name_of_an_argument(name):
    fields: Any = {name: (int, 1)}
    with pytest.raises(TypeError, match=f"Settings.{name} has the name of an argument"):
        create_model("Settings", __base__=BaseAppSettings, **fields)


class Early(Section):
    late: "Late | None" = None


class Late(Section):
    number: int = 0


class Forward(BaseAppSettings, prefix="FORWARD_"):
    early: "Early" = Early()
    later: "Last | None" = None


class Last(Section):
    number: int = 0


def test_types_may_be_declared_after_their_use():
    environ = {"FORWARD_EARLY__LATE__NUMBER": "1", "FORWARD_LATER__NUMBER": "2"}
    assert load(Forward, environ=environ) == Forward(
        early=Early(late=Late(number=1)), later=Last(number=2)
    )


def test_a_derived_class_keeps_the_prefix():
    class Base(BaseAppSettings, prefix="X_"):
        a: int = 0

    class Derived(Base):
        b: int = 0

    assert load(Derived, environ={"X_A": "1", "X_B": "2"}) == Derived(a=1, b=2)


def test_secrets_are_known_by_type_and_by_name():
    class Settings(BaseAppSettings, prefix="X_"):
        a: SecretStr | None = None
        api_key: str = "k"
        token_url: str = "/token"
        secret_count: int = 1

    assert [v.is_secret for v in names_for(Settings).variables] == [True, True, False, False]


def test_a_suggestion_for_a_mapping_of_sections_stays_within_it():
    class Key(Section):
        password: str = ""

    class Settings(BaseAppSettings, prefix="V_"):
        k: Key = Key()
        m: dict[str, Key] = Field(default={})

    for name, meant in {
        "V_M__A__PASWORD": "V_M__A__PASSWORD",
        "V_K__PASWORD": "V_K__PASSWORD",
        "V_M__\x1b__PASWORD": "V_M__?__PASSWORD",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(Settings, environ={name: "canary"})
        assert caught.value.problems[0].message.endswith(f'; did you mean "{meant}"?')
