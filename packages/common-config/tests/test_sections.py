import json
import re
import subprocess
import sys
from typing import Annotated
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest
import redis.asyncio
from pydantic import SecretStr, ValidationError

from common.config import (
    Auth,
    BaseAppSettings,
    ConfigError,
    Cosmos,
    EnvPrefix,
    EventGrid,
    Logging,
    Nats,
    Pagination,
    Postgres,
    Redis,
    SecretUrl,
    explain,
    load,
)
from common.config._descriptions import describe

ALL = [
    Postgres(name="n", user="u"),
    Redis(),
    Nats(),
    Cosmos(endpoint=SecretUrl("https://c"), database="d"),
    EventGrid(endpoint=SecretUrl("https://g")),
    Logging(service="s"),
    Auth(),
    Pagination(),
]
# Defaults of the system that these sections replace.
PUBLISHING = {
    "batch_size": 100,
    "flush_interval_seconds": 5,
    "max_retries": 3,
    "timeout_seconds": 30,
    "soft_fail": True,
}
INVENTORY = {
    Postgres: {"pool_size": 20, "max_overflow": 40, "timeout_seconds": 30},
    Redis: {
        "decode_responses": True,
        "max_connections": 50,
        "socket_timeout_seconds": 5,
        "socket_connect_timeout_seconds": 5,
        "retry_on_timeout": True,
        "health_check_interval_seconds": 30,
    },
    Nats: PUBLISHING,
    EventGrid: PUBLISHING,
    Pagination: {"page_default": 1, "limit_default": 50, "limit_max": 1000},
}


@pytest.mark.parametrize("section", ALL, ids=lambda section: type(section).__name__)
class TestEverySection:
    def test_has_the_defaults_of_the_replaced_system(self, section):
        for name, value in INVENTORY.get(type(section), {}).items():
            assert getattr(section, name) == value

    def test_gives_plain_data(self, section):
        assert json.loads(json.dumps(section.config())) == section.config()

    def test_is_frozen_and_takes_no_unknown_key(self, section):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, next(iter(type(section).model_fields)), 1)
        with pytest.raises(ValidationError, match="not permitted"):
            type(section)(**section.model_dump(exclude_unset=True), surprise=1)

    def test_describes_every_field(self, section):
        describe(type(section))
        assert [n for n, f in type(section).model_fields.items() if not f.description] == []


def test_authentication_has_the_defaults_of_the_replaced_system():
    public, internal = Auth().public, Auth().internal
    assert (public.algorithm, public.access_token_expire_minutes) == ("HS256", 30)
    assert (public.refresh_token_expire_days, public.refresh_tokens) == (7, True)
    assert public.token_url == "/token"
    assert (internal.api_key_header, internal.mutual_tls) == ("X-API-Key", False)
    with pytest.raises(ValidationError, match="no signature"):
        Auth.model_validate({"public": {"algorithm": "None"}})


def test_no_library_is_imported():
    script = (
        "import sys; from common.config import *; print([m for m in ('asyncpg', 'sqlalchemy', "
        "'redis', 'nats', 'azure', 'structlog', 'jwt', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_sections_are_loaded_when_they_are_first_asked_for():
    script = (
        "import sys, common.config as c; names = ('_brokers', '_postgres', '_service', '_stores')\n"
        "def loaded(): return [n for n in names if f'common.config.{n}' in sys.modules]\n"
        "print(loaded()); c.Redis; print(loaded()); print(hasattr(c, 'Gone'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n['_stores']\nFalse\n"


# PostgreSQL


class Old(BaseAppSettings, prefix="CREDIT_"):
    db: Annotated[Postgres, EnvPrefix("CREDIT_DB_")]
    ledger: Annotated[Postgres, EnvPrefix("LEDGER_DB_")] = Postgres(enabled=False)


OLD = {
    "HOST": "localhost",
    "PORT": "5432",
    "PORT_EXTERNAL": "15432",
    "NAME": "credit",
    "USER": "app",
    "PASSWORD": "p@ss/w",
    "ENABLED": "true",
    "POOL_SIZE": "7",
    "MAX_OVERFLOW": "8",
    "POOL_PRE_PING": "true",
    "POOL_RECYCLE": "60",
    "ASYNC_DRIVER": "psycopg",
    "ECHO": "1",
}


def test_every_variable_of_the_replaced_system_is_understood():
    settings = load(Old, environ={f"CREDIT_DB_{name}": text for name, text in OLD.items()})
    assert settings.db.config() == {
        "url": "postgresql+psycopg://app:p%40ss%2Fw@localhost:15432/credit",
        "pool_size": 7,
        "max_overflow": 8,
        "timeout_seconds": 30,
        "pool_pre_ping": True,
        "pool_recycle": 60,
        "echo": True,
    }
    assert str(explain(settings, "db.port_external").source) == "CREDIT_DB_PORT_EXTERNAL"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("localhost", 15432),
        ("LOCALHOST", 15432),
        ("127.0.0.1", 15432),
        ("localhost.", 15432),
        ("127.0.0.2", 15432),
        ("::1", 15432),
        ("0:0:0:0:0:0:0:1", 15432),
        ("/var/run/postgresql", 15432),
        ("10.0.0.1", 5432),
        ("::2", 5432),
        ("db", 5432),
    ],
)
def test_the_external_port_is_used_when_the_host_is_local(host, port):
    db = Postgres(host=host, port_external=15432, name="n", user="u")
    assert db.effective_port == port
    assert re.search(rf"[:=]{port}\b", db.dsn.get_secret_value())
    assert Postgres(host=host, name="n", user="u").effective_port == 5432


def test_a_database_that_is_not_used_needs_nothing():
    assert load(Old, environ={"CREDIT_DB_ENABLED": "false"}).db.enabled is False
    with pytest.raises(ConfigError) as caught:
        load(Old, environ={"CREDIT_DB_HOST": "h"})
    assert str(caught.value.problems[0]) == (
        "db (CREDIT_DB_HOST): name and user are required, unless enabled is false"
    )


PASSWORD = "p:/?#[]@!$&'()*+,;=% ü"


@pytest.mark.parametrize("host", ["db.internal", "::1"])
def test_every_part_of_the_uri_is_quoted(host):
    db = Postgres(host=host, port=6543, name="a/b c", user="u@x", password=SecretStr(PASSWORD))
    uri = urlsplit(db.dsn.get_secret_value())
    assert (uri.hostname, uri.port) == (host, 6543)
    assert [unquote(each) for each in (uri.username or "", uri.password or "", uri.path)] == [
        "u@x",
        PASSWORD,
        "/a/b c",
    ]


async def test_a_real_server_is_reached_with_a_difficult_password(postgres_url):
    role, password = "odd/u@r", PASSWORD.replace("'", "''")
    admin = await asyncpg.connect(postgres_url)
    try:
        await admin.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{password}'")
        server = urlsplit(postgres_url)
        db = Postgres(
            host=server.hostname or "",
            port=1,
            port_external=server.port,
            name=server.path[1:],
            user=role,
            password=SecretStr(PASSWORD),
        )
        connection = await asyncpg.connect(db.dsn.get_secret_value())
        assert await connection.fetchval("SELECT current_user") == role
        await connection.close()
    finally:
        await admin.execute(f'DROP ROLE IF EXISTS "{role}"')
        await admin.close()


def test_a_host_may_be_the_folder_of_a_socket():
    db = Postgres(host="/var/run/postgresql", port=6543, name="n", user="u")
    assert db.dsn.get_secret_value() == (
        "postgresql://u@/n?host=%2Fvar%2Frun%2Fpostgresql&port=6543"
    )


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_ports_are_ports(port):
    with pytest.raises(ValidationError):
        Postgres(name="n", user="u", port=port)


# Redis


def test_a_password_of_its_own_gets_into_the_url():
    section = Redis.model_validate(
        {"url": "rediss://cache:6380/1?x=y", "username": "app", "password": "p@s/s"}
    )
    assert section.config()["url"] == "rediss://app:p%40s%2Fs@cache:6380/1?x=y"
    assert Redis(password=SecretStr("p")).config()["url"] == "redis://:p@localhost:6379/0"
    assert Redis(url=SecretUrl("redis://u:p@h")).config()["url"] == "redis://u:p@h"


async def test_a_real_redis_is_reached_with_the_password_apart_from_the_url(redis_url):
    server = urlsplit(redis_url)
    section = Redis(
        url=SecretUrl(f"redis://{server.hostname}:{server.port}{server.path}"),
        password=SecretStr(server.password or ""),
    )
    async with redis.asyncio.from_url(section.config()["url"]) as client:
        assert await client.ping()


@pytest.mark.parametrize(
    "values", [{"url": "http://h"}, {"url": "h:6379"}, {"url": "redis://u:p@h", "password": "q"}]
)
def test_urls_that_mean_nothing_or_too_much_are_refused(values):
    class Settings(BaseAppSettings, prefix="X_"):
        redis: Redis = Redis()

    with pytest.raises(ConfigError, match=r"url must begin with|are in url"):
        load(Settings, environ={}, redis=values)


# Others


def test_levels_may_be_written_small():
    logging = Logging.model_validate(
        {"service": "s", "level": "debug", "levels": {"azure": "warning"}}
    )
    assert (logging.level, logging.levels) == ("DEBUG", {"azure": "WARNING"})
    with pytest.raises(ValidationError, match="'DEBUG', 'INFO'"):
        Logging.model_validate({"service": "s", "level": "loud"})


def test_a_page_cannot_be_greater_than_the_greatest():
    with pytest.raises(ValidationError, match="greater than limit_max"):
        Pagination(limit_default=2000)
