"""Making the tables: by their own migrations, and within a service's."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import op
from outbox_support import Lit, add, config_of, count, run_sql, value

from common.db.core import UnsupportedOperation
from common.db.postgres import PostgresConfig, PostgresDatabase
from common.db.postgres.migrations import MigrationError, MigrationManager
from common.errors import ValidationError
from common.events.outbox import OutboxNotMigrated
from common.events.outbox._command import main
from common.events.outbox._schema import DOWNGRADES, SIGNS, UPGRADES
from common.events.outbox.migrations import (
    OUTBOX_TABLES,
    OutboxMigrations,
    downgrade_outbox,
    upgrade_outbox,
)

OWN_REVISION = """\
from alembic import op

from common.events.outbox.migrations import downgrade_outbox, upgrade_outbox

revision = "{}"
down_revision = None


def upgrade():
    upgrade_outbox(op, "0001")


def downgrade():
    downgrade_outbox(op, "0001")
"""


@pytest.fixture(scope="session")
def postgres_template():
    return None


@pytest.fixture
def config(postgres_url) -> PostgresConfig:
    return config_of(postgres_url)


async def tables(config: PostgresConfig) -> set[str]:
    sql = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    async with PostgresDatabase(config) as database:
        return {row[0] for row in await run_sql(database, sql)}


async def test_the_tables_are_made_once_and_undone(config):
    manager = OutboxMigrations(config)
    assert await manager.current() == ()
    assert await manager.pending() == list(UPGRADES)
    assert await manager.upgrade() == list(UPGRADES)
    assert await manager.current() == (list(UPGRADES)[-1],)
    assert await manager.pending() == []
    assert await manager.upgrade() == []
    assert await tables(config) == set(OUTBOX_TABLES)
    assert [each.id for each in await manager.history()] == list(UPGRADES)
    assert await manager.downgrade("base") == list(UPGRADES)[::-1]
    assert await manager.current() == ()
    assert await tables(config) == {"outbox_version"}


async def test_replicas_that_start_together_migrate_once(config):
    applied = await asyncio.gather(*[OutboxMigrations(config).upgrade() for _ in range(4)])
    assert sorted(map(len, applied)) == [0, 0, 0, len(UPGRADES)]


async def test_a_services_own_history_does_not_meet_it(config, tmp_path):
    service = MigrationManager(config, tmp_path / "migrations", ignore_tables=OUTBOX_TABLES)
    await service.init()
    written = await service.revision("first", autogenerate=False)
    assert written is not None
    await service.upgrade()
    await OutboxMigrations(config).upgrade()
    assert await service.current() == (written.id,)
    assert await OutboxMigrations(config).current() == ("0001",)
    await service.downgrade("base")
    assert await OutboxMigrations(config).pending() == []


async def owning(config: PostgresConfig, folder: Path) -> MigrationManager:
    """Return the migrations of a service that makes the tables itself."""
    service = MigrationManager(config, folder, ignore_tables=OUTBOX_TABLES)
    await service.init()
    written = await service.revision("outbox", autogenerate=False)
    assert written is not None
    written.path.write_text(OWN_REVISION.format(written.id))
    return service


@pytest.mark.parametrize("schema", [None, 'o\'brien "x"'])
async def test_tables_of_a_services_own_history_are_seen_and_left_alone(
    postgres_url, config, tmp_path, capsys, schema
):
    config = config.model_copy(update={"schema_name": schema})
    service = await owning(config, tmp_path / "migrations")
    manager = OutboxMigrations(config)
    options = ["--url", postgres_url, *(["--schema", schema] if schema else [])]

    async def ask(*arguments: str):
        code = await asyncio.to_thread(main, [*options, "migrate", *arguments])
        return code, capsys.readouterr().out

    assert await ask("--check") == (1, "not applied: 0001\n")
    async with PostgresDatabase(config) as database:
        with pytest.raises(OutboxNotMigrated, match=r"upgrade_outbox.*service's own"):
            await add(database, Lit(lamp="a"))
    await service.upgrade()
    assert await ask("--check") == (0, "")
    assert await ask() == (0, "nothing\n")
    assert await manager.current() == ("0001",)
    assert await manager.downgrade("base") == []
    async with PostgresDatabase(config) as database:
        await add(database, Lit(lamp="a"))
    await service.downgrade("base")
    assert await ask("--check") == (1, "not applied: 0001\n")
    assert await manager.upgrade() == ["0001"]  # from now on its own


async def test_a_service_that_lacks_a_newer_revision_is_told_to_call_it(
    config, tmp_path, monkeypatch
):
    service = await owning(config, tmp_path / "migrations")
    await service.upgrade()
    before = await tables(config)
    manager = OutboxMigrations(config)
    (first,) = await manager.history()

    async def history():
        return [first, replace(first, id="0002", down=("0001",))]

    monkeypatch.setattr(manager, "history", history)
    assert await manager.pending() == ["0002"]
    with pytest.raises(MigrationError, match=r'upgrade_outbox\(op, "0002"\)'):
        await manager.upgrade()
    assert await tables(config) == before


async def test_a_revision_of_a_service_makes_the_same_tables(config, tmp_path):
    service = await owning(config, tmp_path / "migrations")
    await service.upgrade()
    assert await tables(config) == {*OUTBOX_TABLES, "alembic_version"} - {"outbox_version"}
    async with PostgresDatabase(config) as database:
        await add(database, Lit(lamp="a"))
        assert await count(database) == 1
    await service.downgrade("base")
    assert await tables(config) == {"alembic_version"}


async def test_the_queue_is_vacuumed_early_and_keeps_its_file(config):
    await OutboxMigrations(config).upgrade()
    async with PostgresDatabase(config) as database:
        options = await value(database, "SELECT reloptions FROM pg_class WHERE relname = 'outbox'")
        assert "autovacuum_vacuum_scale_factor=0" in options
        assert "vacuum_truncate=false" in options
        # Drawn ahead, positions would not be in the order of commits.
        assert await value(database, "SELECT cache_size FROM pg_sequences") == 1


def test_every_revision_can_be_undone_and_unknown_ones_are_told():
    assert list(UPGRADES) == list(DOWNGRADES) == list(SIGNS)
    for call in (upgrade_outbox, downgrade_outbox):
        with pytest.raises(ValidationError, match="0001"):
            call(op, "9999")


def test_a_pooler_is_refused(postgres_url):
    with pytest.raises(UnsupportedOperation):
        OutboxMigrations(config_of(postgres_url, pgbouncer=True))
