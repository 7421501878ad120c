"""Canary secrets in every layer, looked for in everything that could show them."""

import copy
import io
import json
import logging
import pickle
import pprint
import traceback
from collections import deque
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PostgresDsn,
    SecretBytes,
    SecretStr,
    ValidationError,
    model_validator,
)

from common.config import (
    Auth,
    BaseAppSettings,
    ConfigError,
    EventGrid,
    Nats,
    Postgres,
    Redis,
    SecretUrl,
    Section,
    explain,
    explain_all,
    load,
)

VALUE = "s3cr3t-canary"


def quote_bad(value):
    if value is not None and "bad" in value.get_secret_value():
        raise ValueError(f"I do not like {value.get_secret_value()}")
    return value


class Own(Section):
    token: SecretStr | None = None
    raw: SecretBytes = SecretBytes(b"")
    many: tuple[SecretStr, ...] = ()
    by_name: dict[str, SecretStr] = Field(default={})
    api_key: str = ""
    plain_url: str = ""
    checked: Annotated[SecretStr | None, AfterValidator(quote_bad)] = None


class App(BaseAppSettings, prefix="APP_"):
    db: Postgres = Postgres(enabled=False)
    redis: Redis = Redis()
    nats: Nats = Nats()
    grid: EventGrid = EventGrid(endpoint=SecretUrl("https://grid"))
    auth: Auth = Auth()
    own: Own = Own()
    number: int = 0


def layers(folder, *, wrong=False) -> dict[str, Any]:
    """Every layer with secrets of its own, right or wrong."""
    bad = f"bad-{VALUE}" if wrong else VALUE
    base: dict[str, Any] = {
        "db": {"name": "n", "user": "u", "password": f"{VALUE}-1", "port": 1},
        "redis": {"url": f"redis://u:{VALUE}-2@cache/0"},
        "grid": {"endpoint": "https://grid", "key": f"{VALUE}-12"},
        "own": {"plain_url": f"amqp://u:{VALUE}-3/4@mq", "by_name": {"a": f"{VALUE}-4"}},
    }
    environ = {
        "APP_NATS__SERVERS": f'["nats://u:{VALUE}-5@n1", "nats://n2"]',
        "APP_NATS__TOKEN": f"{VALUE}-6",
        "APP_OWN__MANY": f'["{VALUE}-7"]',
        "APP_OWN__CHECKED": bad,
        "APP_OWN__RAW": f"{VALUE}-8",
    }
    if wrong:
        base["redis"]["url"] = f"http://u:{VALUE}-2@cache"
        base["grid"] = {"endpoint": "x", "key": [f"{VALUE}"]}
        base["own"]["toke"] = VALUE
        base["auth"] = {"public": {"secret_key": {"value": VALUE}}}
        environ["APP_OWN__MANY"] = f"{VALUE},{VALUE}"
        environ["APP_NUMBER"] = VALUE
        environ["APP_OWN__TOKN"] = VALUE
    (folder / "base.yaml").write_text(json.dumps(base))
    (folder / ".env").write_text(f"APP_AUTH__INTERNAL__API_KEY={VALUE}-9\n")
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "app_own__token").write_text(f"{VALUE}-10")
    options: dict[str, Any] = {
        "files": folder / "base.yaml",
        "env_file": folder / ".env",
        "environ": environ,
        "secrets_dir": secrets,
        "own": {"api_key": f"{VALUE}-11"},
    }
    if wrong:
        (folder / "broken.yaml").write_text(f"password: {VALUE}: {VALUE}")
        (folder / ".env").write_text(f"{VALUE}\nAPP_DB__PASSWORD {VALUE}\n")
        (secrets / "app_own__raw").write_bytes(VALUE.encode() + b"\xff")
        options["files"] = [folder / "base.yaml", folder / "broken.yaml"]
    return options


def assert_clean(*texts):
    for text in texts:
        assert "canary" not in text.lower()
        assert "s3cr3t" not in text.lower()


def logged(*objects, exc_info=None):
    stream = io.StringIO()
    logger = logging.getLogger("test_secrets.shown")
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(stream)]
    for each in objects:
        logger.error("%s %r", each, each, exc_info=exc_info)
    return stream.getvalue()


def test_loaded_settings_show_no_secret(tmp_path):
    app = load(App, **layers(tmp_path))
    assert app.own.many[0].get_secret_value() == f"{VALUE}-7"  # they are there
    assert app.own.token
    assert app.own.token.get_secret_value() == f"{VALUE}-10"
    shown = [f"{section!r} {section}" for section in (app, app.db, app.redis, app.own)]
    assert_clean(
        *shown, pprint.pformat(app), logged(app, [app], {"app": app}), str(app.__repr_args__())
    )
    assert_clean(*map(str, explain_all(app)), *map(repr, explain_all(app)))
    assert_clean(
        str(explain(app, "own")), str(explain(app, "own.by_name.a")), str(explain(app, "nats"))
    )
    assert_clean(repr(copy.deepcopy(app)), repr(app.model_copy(update={"number": 1})))
    assert_clean(repr(app._origins.root), repr(app.__pydantic_private__))


def test_hosts_can_still_be_seen(tmp_path):
    app = load(App, **layers(tmp_path))
    assert explain(app, "redis.url").value == '"redis://**********@cache/0"'
    assert explain(app, "own.plain_url").value == '"amqp://**********@mq"'


def test_the_mappings_for_libraries_mask_secrets_in_their_repr(tmp_path):
    app = load(App, **layers(tmp_path))
    mappings = [s.config() for s in (app.db, app.redis, app.nats, app.grid, app.auth)]
    assert_clean(*map(repr, mappings), *map(str, mappings), repr(app.db.url), repr(app.redis.dsn))
    assert VALUE in mappings[0]["url"]
    assert mappings[2]["servers"][0] == f"nats://u:{VALUE}-5@n1"
    assert mappings[4]["internal"]["api_key"] == f"{VALUE}-9"


def test_json_of_settings_masks_the_secret_types(tmp_path):
    app = load(App, environ=layers(tmp_path)["environ"])
    assert_clean(app.model_dump_json())


def test_errors_show_no_secret(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(App, **layers(tmp_path, wrong=True))
    error = caught.value
    assert len(error.problems) >= 10
    assert_clean(
        str(error),
        repr(error),
        repr(error.args),
        repr(error.problems),
        repr(error.__dict__),
        json.dumps(error.to_dict()),
        str(pickle.dumps(error)),
        logged(error, exc_info=error),
        "".join(traceback.format_exception(error)),
    )
    assert error.__cause__ is None
    assert error.__context__ is None


def test_tracebacks_with_local_variables_show_no_secret_from_our_frames(tmp_path):
    options = layers(tmp_path, wrong=True)
    with pytest.raises(ConfigError) as caught:
        load(App, **options)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in trace.stack if "common/config/" in frame.filename]
    assert ours
    assert_clean(*(repr(frame.locals) for frame in ours))


def test_a_crashing_validator_shows_no_secret():
    class Settings(BaseAppSettings, prefix="X_"):
        password: SecretStr

        @model_validator(mode="after")
        def _check(self) -> Self:
            raise RuntimeError(self.password.get_secret_value())

    with pytest.raises(ConfigError) as caught:
        load(Settings, environ={"X_PASSWORD": VALUE})
    assert_clean(str(caught.value), "".join(traceback.format_exception(caught.value)))
    assert caught.value.__context__ is None


def test_calling_the_classes_directly_shows_no_secret_in_errors():
    wrong: list[tuple[type[BaseModel], dict[str, Any]]] = [
        (App, {"db": {"password": VALUE, "port": "x"}, "own": {"token": [VALUE]}}),
        (Postgres, {"password": [VALUE], "port": "x"}),
        (Redis, {"url": VALUE, "password": [VALUE]}),
    ]
    for model, values in wrong:
        with pytest.raises(ValidationError) as caught:
            model(**values)
        error = caught.value
        assert_clean(str(error), repr(error), logged(error, exc_info=error))


def test_schemas_show_no_default_secret():
    class Settings(BaseAppSettings, prefix="X_"):
        password: SecretStr = SecretStr(VALUE)
        url: SecretUrl = SecretUrl(f"redis://u:{VALUE}@h")

    assert_clean(json.dumps(Settings.model_json_schema()))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:p@h:1/0", "redis://**********@h:1/0"),
        ("redis://u@h", "redis://**********@h"),
        ("https://h/path?sig=p#p", "https://h/path?**********"),
        ("redis://u:p/p@h", "**********"),
        ("redis://u:pa?can@h", "**********"),
        ("redis://u:pa#can@h", "**********"),
        ("redis://u:p#a?can@h", "**********"),
        ("https://h/path?mail=a@b", "**********"),
        ("redis://u:p@p@h", "redis://**********@h"),
        ("nats://u:p@a,nats://u:p@b", "**********"),
        ("no url", "**********"),
        ("", "**********"),
    ],
)
def test_a_secret_url_shows_scheme_host_and_path_alone(url, shown):
    assert str(SecretUrl(url)) == shown
    assert repr(SecretUrl(url)) == f"SecretUrl('{shown}')"


@pytest.mark.parametrize("settings", [App(), Redis(), Own()])
@pytest.mark.parametrize("name", ["password", "db", "own", "gone"])
def test_an_attempt_to_change_settings_does_not_show_the_value(settings, name):
    for change in (lambda: setattr(settings, name, VALUE), lambda: delattr(settings, name)):
        with pytest.raises(ValidationError, match="frozen") as caught:
            change()
        error = caught.value
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        ours = [frame for frame in trace.stack if "common/config/" in frame.filename]
        assert ours
        assert_clean(str(error), repr(error), repr(error.errors()), error.json())
        assert_clean(logged(error, exc_info=error), *(repr(frame.locals) for frame in ours))
        assert error.errors()[0]["loc"] == (name,)


class Plain(BaseModel):
    model_config = ConfigDict(frozen=True)

    password: str = f"{VALUE}-p"
    url: HttpUrl = HttpUrl(f"https://u:{VALUE}@plain")
    host: str = "plain-host"


class Credentials(Section):
    value: str = VALUE
    raw: bytes = VALUE.encode()
    url: HttpUrl = HttpUrl(f"https://h/{VALUE}")
    days: int = 30


class Named(BaseAppSettings, prefix="NAMED_"):
    dsn: PostgresDsn = PostgresDsn(f"postgresql://u:{VALUE}@db-host/n")
    urls: tuple[HttpUrl, ...] = (HttpUrl(f"https://u:{VALUE}@url-host"),)
    plain: Plain = Plain()
    plains: dict[str, list[Plain]] = Field(default={"a": [Plain()]})
    password: bytes = VALUE.encode()
    api_keys: list[str] = Field(default=[VALUE])
    passwords: deque[str] = Field(default=deque([VALUE]))
    tokens: dict[str, str] = Field(default={"a": VALUE})
    secrets: dict[str, Any] = Field(default={"a": {"b": [VALUE, {"c": VALUE}]}})
    api_key: dict[str, str] = Field(default={"eu": VALUE})
    credentials: Credentials = Credentials()
    max_tokens: int = 12345
    by_name: dict[str, dict[str, str]] = Field(default={"a": {"client_secrets": VALUE}})


def test_a_repr_shows_no_more_than_explanations_do():
    named = Named()
    shown = [repr(named), str(named), repr([named]), pprint.pformat(named)]
    assert_clean(*shown, *map(str, explain_all(named)))
    assert_clean(*(str(explain(named, name)) for name in Named.model_fields))
    for text in (shown[0], " ".join(map(str, explain_all(named)))):
        for visible in ("db-host", "url-host", "plain-host", "12345", "30"):
            assert visible in text
    deep = ("secrets.a.b.1.c", "tokens.a", "api_key.eu", "credentials.value", "plains.a.0.password")
    assert_clean(*(str(explain(named, path)) for path in deep))
    assert named.tokens == {"a": VALUE}  # they are there


def test_names_of_secrets_count_for_what_is_below_them_in_errors_too():
    class Checked(Named, prefix="NAMED_"):
        @model_validator(mode="after")
        def _check(self) -> Self:
            raise ValueError(f"{self.model_dump()}")

    canary = "s3cr3t-canary-of-a-layer"
    for name in ("tokens", "secrets", "api_key"):
        with pytest.raises(ConfigError) as caught:
            load(Checked, environ={f"NAMED_{name}__A": canary})
        assert "its message is left out" in str(caught.value)
        assert_clean(str(caught.value))
    with pytest.raises(ConfigError) as caught:
        load(Checked, environ={"NAMED_API_KEYS": f'["{canary}"]'})
    assert_clean(str(caught.value))


class Cat(Section):
    kind: Literal["cat"]


class Dog(Section):
    kind: Literal["dog"]


def test_a_wrong_tag_is_not_repeated():
    class Settings(BaseAppSettings, prefix="X_"):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat(kind="cat")

    with pytest.raises(ConfigError) as caught:
        load(Settings, environ={"X_PET__KIND": VALUE})
    assert_clean(str(caught.value), repr(caught.value.__dict__))
    assert (
        str(caught.value.problems[0])
        == "pet (X_PET__KIND): Input tag should be one of 'cat', 'dog'"
    )


def test_a_secret_url_hides_no_message_because_of_its_scheme():
    def https(url: str) -> str:
        if not url.startswith("https://"):
            raise ValueError(f"{url!r}: give a https:// URL; postgresql:// is for databases")
        return url

    class Checked(BaseAppSettings, prefix="CHECKED_"):
        text: SecretStr
        url: SecretUrl
        dsn: PostgresDsn
        calls: Annotated[str, AfterValidator(https)]

    def refusal(calls: str) -> str:
        secrets = dict.fromkeys(["CHECKED_TEXT", "CHECKED_URL", "CHECKED_DSN"], secret)
        with pytest.raises(ConfigError) as caught:
            load(Checked, environ={**secrets, "CHECKED_CALLS": calls})
        return str(caught.value)

    secret = "postgresql://app:s3cr3t-canary@db-host/orders"
    assert "'http://calls': give a https:// URL" in refusal("http://calls")
    assert "its message is left out" in refusal(secret)
    assert_clean(refusal(secret))
