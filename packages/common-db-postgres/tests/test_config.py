"""Configuration fails at construction, with the field, and without the password."""

import ssl
from typing import Any

import pydantic
import pytest
from postgres_entities import config_of

from common.db.core import UnsupportedOperation, create_database_manager, open_database
from common.db.postgres import Listener, PostgresConfig, PostgresDatabase
from common.db.postgres._config import connect_arguments
from common.errors import ValidationError

URL = "postgresql://ada:s3cret@db.example:5433/calls"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://ada:s3cret@db/calls", "postgresql://"),
        ("s3cret", "postgresql://"),
        ("postgresql://ada:s3cret@/calls", "no host"),
        ("postgresql://ada:s3cret@db", "user and a database"),
        ("postgresql://db/calls", "user and a database"),
        ("postgresql://ada:s3cret@db:s3cret/calls", "cannot be read"),
        ("postgresql://ada:s3cret@db/calls?sslmode=s3cret", "sslmode"),
        ("postgresql://ada:s3cret@db/calls?s3cret=1", "unknown option"),
        ("postgresql://ada:s3cret@db/calls?port=s3cret", "no number"),
        ("postgresql://a:s3cret@db/c?sslmode=verify-ca&sslrootcert=/s3cret", "sslrootcert"),
        ("postgresql://a:s3cret@db/c?sslmode=verify-full", "sslrootcert=system"),
    ],
)
def test_a_wrong_url_says_what_is_wrong_and_not_the_password(url: str, told: str):
    for field in ("url", "replicas"):
        given: dict[str, Any] = {"url": url} if field == "url" else {"url": URL, "replicas": [url]}
        with pytest.raises(pydantic.ValidationError) as caught:
            config_of(**given)
        (problem,) = caught.value.errors()
        assert problem["loc"][0] == field
        assert told in problem["msg"]
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"X_DB__URL": "mysql://ada:s3cret@db/calls"}, "must start with postgresql://"),
        ({"X_DB__URL": "postgresql://ada:s3cret@db"}, "must name a user and a database"),
        ({"X_DB__URL": URL, "X_DB__REPLICAS": '["s3cret"]'}, "must start with postgresql://"),
        ({"X_DB__URL": f"{URL}?sslmode=s3cret"}, "sslmode must be one of disable, allow"),
        ({"X_DB__POOL_SIZE": "5"}, "give postgresql://user:password@host"),
    ],
)
def test_settings_from_the_environment_say_what_is_wrong_and_not_the_password(
    variables: dict[str, str], told: str
):
    pytest.importorskip("common.config")
    from common.config import BaseAppSettings, ConfigError, load

    class Settings(BaseAppSettings, prefix="X_"):
        db: PostgresConfig

    with pytest.raises(ConfigError) as caught:
        load(Settings, environ=variables)
    assert told in str(caught.value)
    assert "refused by a validator" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_url_is_required():
    with pytest.raises(ValidationError, match="url"):
        create_database_manager("postgres")


def test_the_factory_finds_the_backend():
    assert isinstance(open_database(URL), PostgresDatabase)
    assert isinstance(open_database("postgresql+asyncpg://a:b@c/d"), PostgresDatabase)


def test_the_parts_of_a_url_are_unquoted_and_the_environment_is_not_asked(monkeypatch):
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE"):
        monkeypatch.setenv(name, "1")
    config = config_of("postgresql://a%40b:p%2Fw@db/c%20d?sslmode=require")
    assert config.url is not None
    assert connect_arguments(config.url) == {
        "host": "db",
        "port": 5432,
        "user": "a@b",
        "password": "p/w",
        "database": "c d",
        "ssl": "require",
        "target_session_attrs": "any",
    }
    verified = config_of("postgresql://a:b@db/c?sslmode=verify-full&sslrootcert=system")
    assert verified.url is not None
    context = connect_arguments(verified.url)["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    socket = config_of("postgresql://ada@/calls?host=/run/postgresql")
    assert socket.url is not None
    arguments = connect_arguments(socket.url)
    assert (arguments["host"], arguments["password"]) == ("/run/postgresql", "")


def test_the_password_is_in_no_representation():
    config = config_of(URL, replicas=[URL])
    database = PostgresDatabase(config)
    for shown in (repr(config), str(config), config.model_dump_json(), repr(database)):
        assert "s3cret" not in shown


@pytest.mark.parametrize("name", ["", "a" * 64, "a\0b"])
def test_a_schema_that_cannot_be_named_is_refused(name: str):
    with pytest.raises(pydantic.ValidationError, match="schema_name"):
        config_of(URL, schema_name=name)


def test_the_pooler_preset_keeps_nothing_in_a_session():
    config = config_of(URL, pgbouncer=True)
    assert config.statement_cache_size == 0
    with pytest.raises(pydantic.ValidationError, match="statement_cache_size"):
        config_of(URL, pgbouncer=True, statement_cache_size=10)
    with pytest.raises(UnsupportedOperation, match="direct connection"):
        Listener(config, ["c"])


async def test_the_pooler_preset_refuses_locks_of_a_session():
    with pytest.raises(UnsupportedOperation, match="transaction_lock"):
        async with PostgresDatabase(config_of(URL, pgbouncer=True)).advisory_lock("x"):
            pass


@pytest.mark.parametrize(
    "field",
    [
        {"pool_size": 0},
        {"statement_timeout_seconds": 0},
        {"connect_timeout_seconds": -1},
        {"replica_lag_seconds": float("nan")},
        {"application_name": "a\nb"},
        {"pool_sise": 5},
    ],
)
def test_wrong_values_and_unknown_fields_are_refused(field: dict[str, Any]):
    with pytest.raises(pydantic.ValidationError, match=next(iter(field))):
        config_of(URL, **field)
