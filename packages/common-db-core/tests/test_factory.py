import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from common.db.core import (
    BackendNotFoundError,
    DatabaseConfig,
    MemoryDatabase,
    create_database_manager,
    open_database,
)
from common.errors import ValidationError


class OwnConfig(DatabaseConfig):
    depth: int = 1


class OwnDatabase(MemoryDatabase):
    config_type = OwnConfig


@pytest.fixture
def own(monkeypatch):
    """Let a distribution be installed that brings a backend of its own."""
    import importlib.metadata

    point = EntryPoint(name="own", value=f"{__name__}:OwnDatabase", group="common.db.backends")
    monkeypatch.setattr(EntryPoint, "load", lambda self: OwnDatabase)

    def entry_points(**wanted):
        return EntryPoints([point]).select(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_memory_is_found_by_name_and_by_url():
    for database in (
        create_database_manager("memory"),
        create_database_manager("memory", DatabaseConfig(max_limit=7)),
        open_database("memory://", max_limit=7),
        open_database("MEMORY+test://anything"),
    ):
        assert isinstance(database, MemoryDatabase)
    assert open_database("memory://", max_limit=7).config.max_limit == 7


@pytest.mark.parametrize(
    ("ask", "distribution"),
    [
        (lambda: create_database_manager("oracle"), "common-db-oracle"),
        (lambda: open_database("oracle://user:s3cret@host/db"), "common-db-oracle"),
        (lambda: open_database("oracle+driver://user:s3cret@host/db"), "common-db-oracle"),
    ],
)
def test_a_missing_backend_names_what_to_install(ask, distribution):
    with pytest.raises(BackendNotFoundError) as caught:
        ask()
    assert f"pip install {distribution}" in str(caught.value)
    assert caught.value.distribution == distribution
    assert "memory" in str(caught.value)
    assert "s3cret" not in repr(caught.value)


@pytest.mark.parametrize(
    ("scheme", "distribution"),
    [
        ("postgresql", "common-db-postgres"),
        ("postgresql+asyncpg", "common-db-postgres"),
        ("postgres", "common-db-postgres"),
        ("cosmos", "common-db-cosmos"),
        ("abfss", "common-db-datalake"),
        ("az", "common-db-datalake"),
        ("delta", "common-db-datalake"),
    ],
)
def test_schemes_lead_to_the_distributions(own, scheme, distribution):
    with pytest.raises(BackendNotFoundError) as caught:
        open_database(f"{scheme}://host/name")
    assert caught.value.distribution == distribution


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 1_000, "\0"])
def test_names_that_are_none_install_nothing(name):
    with pytest.raises(BackendNotFoundError) as caught:
        create_database_manager(name)
    assert caught.value.distribution is None
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("url", ["", "postgresql", "://host", "host/name", "postgresql:host"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValidationError) as caught:
        open_database(url)
    assert caught.value.field == "url"


def test_a_plain_configuration_suits_every_backend(own):
    database = create_database_manager("own", DatabaseConfig(pool_size=3))
    assert isinstance(database.config, OwnConfig)
    assert (database.config.pool_size, database.config.depth) == (3, 1)
    assert create_database_manager("own").config == OwnConfig()
    mine = OwnConfig(depth=2)
    assert create_database_manager("own", mine).config is mine
    assert open_database("own://x", depth=3).config == OwnConfig.model_validate(
        {"url": "own://x", "depth": 3}
    )


def test_wrong_options_are_named_without_their_values(own):
    with pytest.raises(ValidationError) as caught:
        open_database("own://u:s3cret@h", depth="s3cret", pool_sise=1)
    assert "depth" in str(caught.value)
    assert "pool_sise" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_defaults_are_those_of_the_replaced_systems():
    config = DatabaseConfig()
    assert (config.pool_size, config.max_overflow, config.timeout_seconds) == (20, 40, 30)
    assert config.max_limit == 1_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"pool_size": 0},
        {"max_overflow": -1},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"max_limit": 0},
        {"unknown": 1},
        {"cursor_keys": ("k" * 32,) * 9},
    ],
)
def test_bad_configuration_fails_when_it_is_made(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DatabaseConfig(**wrong)


def test_secrets_do_not_show():
    config = DatabaseConfig.model_validate(
        {"url": "postgresql://u:s3cret@h/d", "cursor_keys": ["s3cret" * 6]}
    )
    assert "s3cret" not in f"{config!r} {config} {MemoryDatabase(config)!r} {config.model_dump()}"


def test_importing_loads_neither_tests_nor_backends():
    code = (
        "import sys, pydantic; before = set(sys.modules); import common.db.core;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new & {'pytest', 'hypothesis', 'sqlalchemy', 'asyncpg'}),"
        "'common.db.core.testing' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[] False"
