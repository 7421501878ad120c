import re
from typing import Annotated, Any, Self

import pytest
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from common.config import BaseAppSettings, ConfigError, SecretUrl, Section, load

NOT_AN_INTEGER = "Input should be a valid integer, unable to parse string as an integer"


def refused(settings, text="", *, folder=None, environ=None, **explicit: Any):
    files = []
    if folder is not None:
        files = [folder / "f.yaml"]
        files[0].write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(settings, files=files, environ=environ or {}, **explicit)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


class Server(Section):
    host: str
    port: int = Field(default=80, ge=1)


class Farm(BaseAppSettings, prefix="FARM_"):
    name: str = ""
    on: bool = False
    servers: list[Server] = Field(default=[])
    by_name: dict[str, Server] = Field(default={})
    main: Server | None = None
    either: int | list[int] = 0


def test_unknown_keys_are_found_at_every_depth(tmp_path):
    text = """
servers:
  - host: a
    prot: 1
by_name:
  a: {host: b, hots: c}
main: {host: a, Port: 1}
Name: x
"""
    assert refused(Farm, text, folder=tmp_path) == [
        'servers.0.prot (f.yaml:4): unknown key; did you mean "port"?',
        'by_name.a.hots (f.yaml:6): unknown key; did you mean "host"?',
        'main.Port (f.yaml:7): unknown key; did you mean "port"?',
        'Name (f.yaml:8): unknown key; did you mean "name"?',
    ]


def test_an_unknown_key_in_several_layers_names_them_all(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("nmae: x")
    with pytest.raises(ConfigError) as caught:
        load(Farm, files=[tmp_path / "a.yaml", tmp_path / "b.yaml"], environ={}, nmae="y")
    (problem,) = caught.value.problems
    assert problem.source == f"argument, {tmp_path}/b.yaml:1, {tmp_path}/a.yaml:1"


def test_unknown_arguments_are_errors_too():
    assert refused(Farm, nmae="x") == ['nmae (argument): unknown key; did you mean "name"?']


def test_a_section_that_takes_more_on_purpose_may():
    class Open(Section):
        model_config = ConfigDict(extra="allow")

        a: int = 0

    class Settings(BaseAppSettings, prefix="X_"):
        open: Open = Open()

    loaded = load(Settings, environ={}, open={"a": 1, "b": 2})
    assert loaded.open.model_extra == {"b": 2}


def test_a_section_that_would_ignore_unknown_keys_does_not():
    class Lax(Section):
        model_config = ConfigDict(extra="ignore")

        size: int = 0

    class Settings(BaseAppSettings, prefix="X_"):
        lax: Lax = Lax()

    assert refused(Settings, lax={"sise": 1}) == [
        'lax.sise (argument): unknown key; did you mean "size"?'
    ]


def test_wrong_types_are_named_by_field_and_line(tmp_path):
    text = """
on: maybe
servers:
  - host: a
    port: 0
  - port: x
by_name:
  a: 5
main:
  host: [a]
either: x
"""
    assert refused(Farm, text, folder=tmp_path) == [
        "on (f.yaml:2): Input should be a valid boolean, unable to interpret input",
        "servers.0.port (f.yaml:5): Input should be greater than or equal to 1",
        "servers.1.host: is required; give the key",
        f"servers.1.port (f.yaml:6): {NOT_AN_INTEGER}",
        "by_name.a (f.yaml:8): Input should be a valid dictionary or instance of Server",
        "main.host (f.yaml:10): Input should be a valid string",
        f"either (f.yaml:11): {NOT_AN_INTEGER}; or Input should be a valid list",
    ]


def test_values_that_yaml_takes_for_something_else_get_a_hint(tmp_path):
    assert refused(Farm, "name: 12\nmain:\non: no", folder=tmp_path) == [
        "name (f.yaml:1): Input should be a valid string; put the value in quotes"
    ]
    assert refused(Farm, "name:\nservers:", folder=tmp_path) == [
        "name (f.yaml:1): is empty (null); give a value, or remove the key",
        "servers (f.yaml:2): is empty (null); give a value, or remove the key",
    ]


def test_a_missing_field_names_its_variable():
    class Settings(BaseAppSettings, prefix="X_"):
        server: Server

    assert refused(Settings) == ["server: is required; set X_SERVER, or give the key in a file"]
    assert refused(Settings, environ={"X_SERVER__PORT": "1"}) == [
        "server.host: is required; set X_SERVER__HOST, or give the key in a file"
    ]


def test_a_default_that_breaks_its_own_rule_is_found():
    class Settings(BaseAppSettings, prefix="X_"):
        port: int = Field(default=0, ge=1)

    assert refused(Settings) == ["port (default): Input should be greater than or equal to 1"]


# Custom validators: their words may repeat what they were given.


def shout(value):
    raise ValueError(f"{value!r} is not what I want")


def custom(value):
    raise PydanticCustomError("custom", "got {what}", {"what": value})


def crash(value):
    raise KeyError(value)


CANARY = "HuNtEr2-CaNaRy-9F"


def within_a_model(**fields):
    """Settings with an after-validator that says what it sees."""

    class Settings(BaseAppSettings, prefix="X_"):
        password: SecretStr = SecretStr("")
        url: SecretUrl = SecretUrl("redis://h")
        plain_url: str = ""
        api_key: str = ""
        keys: list[SecretStr] = Field(default=[])
        by_name: dict[str, SecretStr] = Field(default={})
        number: int = 0

        @model_validator(mode="after")
        def _check(self) -> Self:
            raise ValueError(fields["says"](self))

    return Settings


def test_the_words_of_a_validator_are_shown_where_no_secret_is_near():
    class Settings(BaseAppSettings, prefix="X_"):
        region: Annotated[str, AfterValidator(shout)] = "a"
        other: Annotated[str, AfterValidator(custom)] = "b"

    assert refused(Settings, environ={"X_REGION": "mars", "X_OTHER": "x"}) == [
        "region (X_REGION): 'mars' is not what I want",
        "other (X_OTHER): got x",
    ]


@pytest.mark.parametrize(
    "validator", [AfterValidator(shout), BeforeValidator(shout), AfterValidator(custom)]
)
@pytest.mark.parametrize("kind", [SecretStr, SecretStr | None, SecretUrl])
def test_of_a_secret_field_only_the_place_of_the_validator_is_told(kind, validator):
    annotation: Any = Annotated[kind, validator]

    class Settings(BaseAppSettings, prefix="X_"):
        field: annotation  # pyright: ignore[reportInvalidTypeForm]

    (problem,) = refused(Settings, environ={"X_FIELD": f"redis://u:{CANARY}@h"})
    assert problem.startswith("field (X_FIELD): is refused by a validator")
    assert "canary" not in problem.lower()
    if validator.func is shout:
        assert re.search(r"\(shout, test_check\.py:\d+\)", problem)


def test_a_text_field_with_a_secret_name_counts_as_secret():
    class Settings(BaseAppSettings, prefix="X_"):
        api_key: str

        @field_validator("api_key")
        @classmethod
        def _check(cls, value: str) -> str:
            return shout(value)

    assert CANARY not in refused(Settings, environ={"X_API_KEY": CANARY})[0]


@pytest.mark.parametrize(
    "says",
    [
        lambda s: f"bad {s.password.get_secret_value()}",
        lambda s: f"bad {s.password.get_secret_value().upper()}",
        lambda s: f"bad {s.password.get_secret_value().lower()}",
        lambda s: f"bad {s.password.get_secret_value()[:6]}…",
        lambda s: f"bad {s.password.get_secret_value()[3:]!r}",
        lambda s: f"bad {s.url.get_secret_value()}",
        lambda s: f"bad {s.plain_url}",
        lambda s: f"bad {s.api_key}",
        lambda s: f"bad {s.keys[0].get_secret_value()}",
        lambda s: f"bad {s.by_name['a'].get_secret_value()}",
        lambda s: f"bad {s.model_dump()} {s.password.get_secret_value()}",
    ],
)
def test_a_model_validator_cannot_tell_a_secret_of_any_field(says):
    values: dict[str, Any] = {
        "password": CANARY,
        "url": f"redis://:{CANARY}@h/0",
        "plain_url": f"redis://:{CANARY}@h/0",
        "api_key": CANARY,
        "keys": [CANARY],
        "by_name": {"a": CANARY},
    }
    (problem,) = refused(within_a_model(says=says), **values)
    assert "is refused by a validator (" in problem
    assert not re.search("hunter|canary", problem, re.IGNORECASE)


def test_a_model_validator_that_tells_no_secret_is_heard():
    settings = within_a_model(says=lambda s: f"number {s.number} is odd, {s.password}")
    (problem,) = refused(settings, password=CANARY, number=3)
    assert problem == "number 3 is odd, **********"


def test_secrets_given_as_objects_are_known_too():
    settings = within_a_model(says=lambda s: s.password.get_secret_value())
    assert "canary" not in refused(settings, password=SecretStr(CANARY))[0].lower()


def test_a_validator_that_crashes_is_a_problem_without_its_words():
    class Settings(BaseAppSettings, prefix="X_"):
        field: Annotated[str, AfterValidator(crash)] = ""
        other: int = 0

    (problem,) = refused(Settings, environ={"X_FIELD": CANARY})
    assert re.fullmatch(
        r"a validator failed with KeyError \(crash, test_check\.py:\d+\); mend it", problem
    )
