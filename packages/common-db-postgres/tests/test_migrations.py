"""Migrations on a real server: written, applied once, undone, compared."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import pytest
import sqlalchemy as sa
from postgres_entities import config_of, metadata

from common.db.core import LockTimeout, UnsupportedOperation
from common.db.postgres import PostgresConfig, new_metadata
from common.db.postgres.migrations import Drift, MigrationError, MigrationManager
from common.errors import DatabaseError, ValidationError
from common.testing import cancel_at_every_await


@pytest.fixture(scope="session")
def postgres_template():
    return None


@pytest.fixture
def config(postgres_url: str) -> PostgresConfig:
    return config_of(postgres_url)


@pytest.fixture
async def manager(config: PostgresConfig, tmp_path: Path) -> MigrationManager:
    made = MigrationManager(config, tmp_path / "migrations 100%", metadata)
    await made.init()
    return made


async def test_the_models_become_a_migration_which_leaves_no_drift(manager: MigrationManager):
    revision = await manager.revision("first tables")
    assert revision is not None
    assert re.fullmatch(r"[0-9a-f]{12}_first_tables\.py", revision.path.name)
    assert await manager.pending() == [revision.id]
    assert Drift("add_table", "agents") in await manager.check()
    assert await manager.upgrade() == [revision.id]
    assert await manager.current() == (revision.id,)
    assert await manager.pending() == []
    assert await manager.check() == []
    assert await manager.revision("nothing new") is None
    assert [each.id for each in await manager.history()] == [revision.id]
    assert await manager.upgrade() == []
    assert await manager.downgrade("base") == [revision.id]
    assert await manager.current() == ()
    assert "agents" not in await tables(manager)


STRICT = """
line-length = 100
target-version = "py311"
[lint]
select = ["ALL"]
ignore = ["COM812", "CPY001", "INP001"]
[lint.pydocstyle]
convention = "google"
"""


@pytest.fixture
def ruff(tmp_path: Path):
    """A strict project around the migrations; what ruff says about its files."""
    (tmp_path / "ruff.toml").write_text(STRICT)

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


MESSAGES = [
    "first tables",
    'why "these" \\ and \n not """those""" 100% ${x}?',
    "a reason that is " + "long, " * 20 + "and ends",
]


@pytest.mark.parametrize("message", MESSAGES)
async def test_a_migration_is_written_as_people_write_code(
    config: PostgresConfig, manager: MigrationManager, ruff, message: str
):
    first = await manager.revision(message)
    assert first is not None
    await manager.upgrade()
    long = "kind IN (" + ", ".join(f"'{n}  or {n}'" for n in range(40)) + ")"
    models = checked("kind = 'a'", key="first")
    for name in metadata.tables:
        metadata.tables[name].to_metadata(models)
    second = await MigrationManager(config, manager._directory, models).revision(message)
    assert second is not None
    await manager.upgrade()
    models.remove(models.tables[ODD])
    checked(long, key="first").tables[ODD].to_metadata(models)
    changing = MigrationManager(config, manager._directory, models)
    third = await changing.revision(message)
    assert third is not None
    for revision in (first, second, third):
        text = revision.path.read_text()
        compile(text, revision.path, "exec")
        lines = text.splitlines()
        assert not [line for line in lines if line != line.rstrip()]
        assert lines[0][3].isupper()
        assert lines[0].removesuffix('"""')[-1] in ".!?"
        assert len(lines[0]) <= 100
        assert "op." in text
    assert first.message.startswith(message[0].upper())
    await changing.upgrade()
    assert await changing.check() == []
    await changing.downgrade("-1")
    await changing.upgrade()
    if find_spec("ruff") is None:
        return
    assert ruff("format", "--check")[0] == 0
    assert ruff("check") == (0, "All checks passed!\n")


async def test_an_empty_migration_keeps_what_it_is_going_to_use(manager: MigrationManager, ruff):
    revision = await manager.revision("by hand", autogenerate=False)
    assert revision is not None
    text = revision.path.read_text()
    assert "import sqlalchemy as sa\nfrom alembic import op\n\nrevision" in text
    assert not re.search("[ \t]$", text, re.MULTILINE)
    assert "down_revision: str | Sequence[str] | None = None" in text
    assert await manager.upgrade() == [revision.id]
    second = await manager.revision("again", autogenerate=False)
    assert second is not None
    assert f"\nRevises: {revision.id}\n" in second.path.read_text()
    if find_spec("ruff") is not None:
        assert ruff("format", "--check")[0] == 0


async def tables(manager: MigrationManager) -> set[str]:
    async with manager._connected() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))


async def execute(manager: MigrationManager, statement: str) -> None:
    async with manager._connected() as connection:
        await connection.execute(sa.text(statement))
        await connection.commit()


async def test_drift_between_models_and_database_is_found(manager: MigrationManager):
    await manager.revision("all")
    await manager.upgrade()
    for statement in (
        "ALTER TABLE agents DROP COLUMN display",
        "ALTER TABLE agents ADD COLUMN extra text",
        "ALTER TABLE agents ALTER COLUMN name DROP NOT NULL",
        "ALTER TABLE calls ALTER COLUMN number TYPE varchar(5)",
        "ALTER TABLE calls ALTER COLUMN created_at DROP DEFAULT",
        "DROP INDEX uq_agents_merchant_id_domain_name",
        "DROP TABLE legs",
        "CREATE TABLE forgotten (id int)",
    ):
        await execute(manager, statement)
    assert {str(each) for each in await manager.check()} == {
        "add_column agents.display",
        "remove_column agents.extra",
        "modify_nullable agents.name",
        "modify_type calls.number",
        "modify_default calls.created_at",
        "add_index agents.uq_agents_merchant_id_domain_name",
        "add_table legs",
        "remove_table forgotten",
    }
    tolerant = MigrationManager(
        manager._config, manager._directory, metadata, ignore_tables=["forgotten"]
    )
    assert Drift("remove_table", "forgotten") not in await tolerant.check()


ODD = 'an "odd" name'


def checked(check: str, *, key: str, columns: Sequence[str] = ("id",)) -> sa.MetaData:
    models = new_metadata()
    sa.Table(
        ODD,
        models,
        sa.Column("id", sa.BigInteger),
        sa.Column("kind", sa.Text(collation="C"), nullable=False),
        sa.PrimaryKeyConstraint(*columns, name=key),
        sa.CheckConstraint(check, name="kind"),
    )
    return models


async def test_drift_in_checks_and_primary_keys_is_found_and_migrated(
    config: PostgresConfig, tmp_path: Path
):
    before = checked("kind IN ('a', ':b') AND id % 2 = 0", key='first "key"')
    after = checked("kind IN ('a', 'c') OR kind LIKE '%:d'", key="second")
    wider = checked("kind IN ('a', 'c') OR kind LIKE '%:d'", key="second", columns=("id", "kind"))
    first, second, third = (
        MigrationManager(config, tmp_path / "m", models) for models in (before, after, wider)
    )
    await first.init()
    for manager, changes in (
        (first, ["add_table"]),
        (second, ["rename_constraint", "remove_constraint", "add_constraint"]),
        (third, ["remove_constraint", "add_constraint"]),
    ):
        assert [each.change for each in await manager.check()] == changes
        assert await manager.revision("next") is not None
        await manager.upgrade()
        assert await manager.check() == []  # however the server rewrote what it was given
    await third.downgrade("-1")
    assert await second.check() == []
    await second.downgrade("-1")
    assert await first.check() == []
    await execute(first, 'ALTER TABLE "an ""odd"" name" DROP CONSTRAINT "ck_an ""odd"" name_kind"')
    await execute(first, 'ALTER TABLE "an ""odd"" name" ADD CONSTRAINT extra CHECK (id > 0)')
    assert await first.check() == [
        Drift("remove_constraint", 'an "odd" name', "extra"),
        Drift("add_constraint", 'an "odd" name', 'ck_an "odd" name_kind'),
    ]
    assert "common_drift" not in await tables(first)


async def test_replicas_that_start_together_migrate_once(manager: MigrationManager):
    await write(manager, "slow", "op.execute('SELECT pg_sleep(0.3)')")
    await write(manager, "count", "op.execute('CREATE TABLE once (id int)')")
    applied = await asyncio.gather(*[manager.upgrade() for _ in range(4)])
    assert sorted(len(each) for each in applied) == [0, 0, 0, 2]
    assert "once" in await tables(manager)


async def write(manager: MigrationManager, message: str, upgrade: str) -> str:
    """Write a migration by hand, as a developer would."""
    scripts = manager._directory / "versions"
    before = await manager.history()
    name = f"{len(before):04d}"
    down = repr(before[-1].id) if before else None
    (scripts / f"{name}_{message}.py").write_text(
        f'"""{message}"""\nfrom alembic import op\nrevision = "{name}"\ndown_revision = {down}\n'
        f"def upgrade():\n    {upgrade}\ndef downgrade():\n    pass\n"
    )
    return name


async def test_a_concurrent_index_can_be_made_while_others_wait(manager: MigrationManager):
    await write(manager, "table", "op.execute('CREATE TABLE t (id int)')")
    body = (
        "op.execute('SELECT pg_sleep(0.2)')\n    with op.get_context().autocommit_block():\n"
        "        op.execute('CREATE INDEX CONCURRENTLY i ON t (id)')"
    )
    await write(manager, "index", body)
    async with asyncio.timeout(20):  # waiters that hold a snapshot would block it for ever
        applied = await asyncio.gather(*[manager.upgrade() for _ in range(3)])
    assert sorted(len(each) for each in applied) == [0, 0, 2]


async def test_migrations_before_a_failed_one_are_kept_and_the_lock_is_free(
    manager: MigrationManager,
):
    good = await write(manager, "good", "op.execute('CREATE TABLE good (id int)')")
    await write(manager, "bad", "op.execute('CREATE TABLE half (id int)'); op.execute('oops')")
    with pytest.raises(DatabaseError) as caught:
        await manager.upgrade()
    assert caught.value.error_code == "42601"
    assert await manager.current() == (good,)
    assert "half" not in await tables(manager)
    with pytest.raises(DatabaseError):
        await manager.upgrade()


async def test_waiting_for_other_replicas_has_an_end(
    manager: MigrationManager, config: PostgresConfig
):
    impatient = MigrationManager(config, manager._directory, lock_timeout_seconds=0.2)
    await write(manager, "some", "op.execute('SELECT 1')")
    async with manager._locked():
        with pytest.raises(LockTimeout):
            await impatient.upgrade()


async def test_cancelled_at_every_await_a_migration_is_whole_or_not_there(
    manager: MigrationManager,
):
    await write(manager, "both", "op.execute('CREATE TABLE a()'); op.execute('CREATE TABLE b()')")

    async def check() -> None:
        found = await tables(manager)
        assert ("a" in found) == ("b" in found)
        if "a" in found:
            assert await manager.current() == ("0000",)
            async with asyncio.timeout(10):
                await manager.downgrade("base")
            await execute(manager, "DROP TABLE a, b")
        else:
            assert await manager.current() == ()

    assert await cancel_at_every_await(manager.upgrade, check) >= 5


async def test_a_schema_of_any_name_is_made_once(config: PostgresConfig, tmp_path: Path):
    name = 'odd "name"; DROP TABLE x'
    manager = MigrationManager(config, tmp_path)
    await asyncio.gather(*[manager.ensure_schema(name) for _ in range(4)])
    async with manager._connected() as connection:
        names = await connection.run_sync(lambda sync: sa.inspect(sync).get_schema_names())
    assert name in names
    for wrong in ("", "a" * 64, "a\0b"):
        with pytest.raises(ValidationError):
            await manager.ensure_schema(wrong)


async def test_a_configured_schema_takes_tables_and_versions(postgres_url: str, tmp_path: Path):
    models = new_metadata()
    sa.Table("things", models, sa.Column("id", sa.BigInteger, primary_key=True))
    config = config_of(postgres_url, schema_name='my "schema"')
    manager = MigrationManager(config, tmp_path / "m", models)
    await manager.init()
    await manager.revision("things")
    await manager.upgrade()
    assert await manager.check() == []
    async with manager._connected() as connection:
        found = await connection.run_sync(
            lambda sync: sa.inspect(sync).get_table_names(schema='my "schema"')
        )
    assert set(found) == {"things", "alembic_version"}


async def test_misuse_has_clear_errors(manager: MigrationManager, config: PostgresConfig):
    with pytest.raises(MigrationError, match="not empty"):
        await manager.init()
    with pytest.raises(MigrationError, match="nope"):
        await manager.upgrade("nope")
    with pytest.raises(MigrationError):
        await MigrationManager(config, manager._directory / "missing").upgrade()
    for call in (
        MigrationManager(config, manager._directory).check(),
        MigrationManager(config, manager._directory).revision("some"),
    ):
        with pytest.raises(MigrationError, match="--metadata"):
            await call
    await write(manager, "one", "pass")
    with pytest.raises(MigrationError, match="up to date"):
        await manager.revision("two")
    with pytest.raises(UnsupportedOperation, match="direct"):
        MigrationManager(config_of("postgresql://a:b@c/d", pgbouncer=True), "x")


def env_of(manager: MigrationManager) -> Path:
    return manager._directory / "env.py"


def test_env_outside_of_alembic_does_nothing(tmp_path: Path):
    env = tmp_path / "env.py"
    source = resources.files("common.db.postgres") / "_migrations" / "template" / "env.py.txt"
    env.write_text(source.read_text())
    run_path(str(env))
    subprocess.run([sys.executable, str(env)], check=True)  # where no migration ever ran


async def test_env_takes_options_of_the_service(manager: MigrationManager):
    env_of(manager).write_text(
        "from common.db.postgres.migrations import run_env\nrun_env(version_table='versions')\n"
    )
    revision = await manager.revision("first")
    assert revision is not None
    await manager.upgrade()
    assert {"agents", "versions"} <= await tables(manager)


async def test_plain_alembic_runs_the_same_folder(
    manager: MigrationManager, config: PostgresConfig
):
    await write(manager, "one", "op.execute('CREATE TABLE one (id int)')")
    (manager._directory.parent / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s/migrations 100%%\n"
    )

    def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=manager._directory.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    offline = alembic("upgrade", "head", "--sql")
    assert "CREATE TABLE one" in offline.stdout
    done = await asyncio.to_thread(alembic, "upgrade", "head")
    assert done.returncode
    assert "set sqlalchemy.url, or use common-db" in done.stderr
    assert config.url is not None
    url = config.url.get_secret_value().replace("postgresql:", "postgresql+asyncpg:")
    with (manager._directory.parent / "alembic.ini").open("a") as file:
        file.write(f"sqlalchemy.url = {url}\n")
    done = await asyncio.to_thread(alembic, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert await manager.current() == ("0000",)
    assert "one" in await tables(manager)


def test_alembic_is_loaded_when_migrations_are_used_and_not_before(tmp_path: Path):
    script = (
        "import asyncio, sys\n"
        "import common.db.postgres\n"
        "from common.db.postgres import PostgresConfig\n"
        "from common.db.postgres.migrations import MigrationManager\n"
        "config = PostgresConfig(url='postgresql://a:b@c/d')\n"
        "manager = MigrationManager(config, sys.argv[1])\n"
        "asyncio.run(manager.init())\n"
        "assert not {'alembic', 'mako'} & set(sys.modules)\n"
        "assert asyncio.run(manager.history()) == []\n"
        "assert 'alembic' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "m")], check=True)
