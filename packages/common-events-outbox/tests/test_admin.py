"""Status and dead letters, in code and by the command."""

import asyncio
import json
from datetime import timedelta

import pytest
from outbox_support import (
    Lit,
    Opened,
    add,
    count,
    emptied,
    make_relay,
    numbers,
    run_sql,
    stored,
    until,
)

from common.errors import ValidationError
from common.events.core import PublishRejected
from common.events.outbox import OutboxAdmin, OutboxNotMigrated
from common.events.outbox._command import main


@pytest.fixture
async def dead(database, transport) -> list[str]:
    """Ids of three dead letters of lamps and two of doors."""
    ids = await add(
        database,
        *[Lit(lamp=str(n), number=n) for n in range(3)],
        *[Opened(door=f"door {n}", number=n) for n in range(2)],
    )
    with transport.failing(PublishRejected("closed today")):
        async with make_relay(database, transport, attempts=1):
            await emptied(database)
    return ids


async def test_dead_letters_are_listed_with_their_reason(database, dead):
    letters = await OutboxAdmin(database).dead()
    assert [each.id for each in letters] == dead
    first = letters[0]
    assert (first.type, first.key, first.stream, first.attempts) == ("lamp.lit", "0", "LAMP", 1)
    assert first.error == "PUBLISH_REJECTED: closed today"
    assert first.size > 100
    assert first.created <= first.died
    after = await OutboxAdmin(database).dead(after=letters[1].position, limit=2)
    assert [each.id for each in after] == dead[2:4]
    with pytest.raises(ValidationError):
        await OutboxAdmin(database).dead(limit=0)


async def test_what_is_put_back_is_published_under_its_old_id(database, transport, broker, dead):
    admin = OutboxAdmin(database)
    async with make_relay(database, transport, poll_interval_seconds=3600):
        assert await admin.retry([dead[1], "unknown"]) == 1
        await emptied(database)
        assert [each["id"] for each in stored(broker)] == [dead[1]]
        assert await admin.retry(type="door.opened") == 2
        assert await admin.retry() == 2
        await emptied(database)
    assert {each["id"] for each in stored(broker) + stored(broker, "DOOR")} == set(dead)
    assert numbers(broker) == [1, 0, 2]
    assert await admin.retry() == 0
    with pytest.raises(ValidationError):
        await admin.retry("abc")


async def test_what_is_discarded_is_gone(database, dead):
    admin = OutboxAdmin(database)
    assert await admin.discard(dead[:1], type="door.opened") == 0
    assert await admin.discard(dead[:1]) == 1
    assert await admin.discard(type="lamp.lit") == 2
    assert await admin.discard() == 2
    assert (await admin.lag()).dead == 0
    assert await count(database) == 0


async def test_thousands_are_put_back_in_their_order(database):
    await run_sql(
        database,
        "INSERT INTO outbox_dead (position, id, aggregatetype, type, payload, partition, stream,"
        " subject, attempts) SELECT n, n::text, 'lamp', 'lamp.lit', '', 0, 'LAMP', '', 1"
        " FROM generate_series(1, 2500) n",
    )
    assert await OutboxAdmin(database).retry() == 2500
    rows = await run_sql(database, "SELECT id, attempts FROM outbox ORDER BY position")
    assert [int(row[0]) for row in rows] == list(range(1, 2501))
    assert {row[1] for row in rows} == {0}


async def test_the_status_shows_relays_and_what_waits(database, transport):
    admin = OutboxAdmin(database)
    await add(database, Lit(lamp="a"))
    status = await admin.status()
    assert (status.lag.rows, status.free, status.relays) == (1, 64, [])
    assert status.lag.age > 0
    async with make_relay(database, transport):
        await emptied(database)
        (relay,) = (await admin.status()).relays
        assert (relay.alive, relay.partitions) == (True, 64)


async def test_the_status_says_why_messages_wait(postgres_url, database, transport, capsys):
    await add(database, *[Lit(lamp=str(n)) for n in range(3)], Opened(door="d"))
    slow = {"retry_first_seconds": 3600, "retry_max_seconds": 3600}
    with (
        transport.failing(PublishRejected("closed\ntoday"), subject="evt.door.>"),
        transport.failing(PublishRejected("full"), subject="evt.lamp.>"),
    ):
        async with make_relay(database, transport, **slow) as relay:
            await until(lambda: refused(database, 4))
            assert (await relay.health()).ok  # it does its work; what waits is in the lag
    status = await OutboxAdmin(database).status()
    reasons = [("PUBLISH_REJECTED: full", 3), ("PUBLISH_REJECTED: closed\ntoday", 1)]
    assert status.errors == reasons
    code, out, _ = await asyncio.to_thread(run, capsys, postgres_url, "status")
    assert code == 0
    assert out.splitlines()[-2:] == [
        "3 wait after PUBLISH_REJECTED: full",
        "1 wait after PUBLISH_REJECTED: closed\\x0atoday",
    ]


async def refused(database, number: int) -> bool:
    return (await OutboxAdmin(database).lag()).failing == number


async def test_a_database_without_the_tables_says_what_to_do(database):
    await run_sql(database, "DROP TABLE outbox_dead, outbox_lease")
    admin = OutboxAdmin(database)
    for call in (admin.lag, admin.status, admin.dead, admin.retry, admin.discard):
        with pytest.raises(OutboxNotMigrated, match="common-outbox migrate"):
            await call()


# Keeping small


async def test_an_archive_keeps_what_was_published_until_it_is_old(database, transport, broker):
    ids = await add(database, *[Lit(lamp=str(n)) for n in range(10)])
    async with make_relay(database, transport, archive=True):
        await emptied(database)
        rows = await run_sql(database, "SELECT id, payload, published_at FROM outbox_archive")
        assert {row[0] for row in rows} == set(ids)
        assert all(json.loads(row[1])["id"] == row[0] for row in rows)
        await run_sql(
            database,
            "UPDATE outbox_archive SET published_at = published_at - interval '8 days'"
            " WHERE id = ANY ($1)",
            ids[:7],
        )

        async def pruned() -> bool:
            return await count(database, "outbox_archive") == 3

        async with asyncio.timeout(60):
            while not await pruned():
                await asyncio.sleep(0.05)
    assert await OutboxAdmin(database).prune(archive=timedelta(0), inbox=timedelta(0)) == (3, 0)


async def test_the_relay_prunes_the_inbox_and_vacuums_the_outbox(database, transport):
    await run_sql(
        database,
        "INSERT INTO inbox SELECT 'c', n::text, clock_timestamp() - interval '15 days'"
        " FROM generate_series(1, 10) n",
    )
    await add(database, *[Lit(lamp=str(n)) for n in range(200)])
    async with make_relay(database, transport, vacuum_after=100, upkeep_seconds=3600):
        async with asyncio.timeout(60):
            while await count(database, "inbox"):
                await asyncio.sleep(0.05)
            while True:
                rows = await run_sql(
                    database,
                    "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'outbox'",
                )
                if rows[0][0] >= 1:
                    break
                await asyncio.sleep(0.05)


# The command


def run(capsys, url: str, *arguments: str) -> tuple[int, str, str]:
    code = main(["--url", url, *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


async def test_the_command_shows_and_settles(postgres_url, database, dead, capsys):
    async def ask(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(run, capsys, postgres_url, *arguments)

    code, out, _ = await ask("status")
    assert code == 0
    assert "dead letters: 5" in out
    assert "partitions without a relay: 64" in out
    code, out, _ = await ask("--json", "lag")
    assert json.loads(out) == {"rows": 0, "age": 0.0, "failing": 0, "dead": 5}
    code, out, _ = await ask("dead", "--limit", "1")
    assert dead[0] in out
    assert "closed today" in out
    assert (await ask("retry"))[0] == 1
    assert (await ask("retry", "x", "--all"))[0] == 1
    code, out, _ = await ask("retry", dead[0], "unknown")
    assert (code, out) == (1, "put back 1\n1 of the ids are no dead letters\n")
    assert (await ask("discard", "--all", "--type", "door.opened"))[1] == "discarded 2\n"
    assert (await ask("lag", "--max-rows", "0"))[0] == 1
    assert (await ask("lag", "--max-rows", "1", "--max-age", "3600"))[0] == 0
    assert (await ask("lag", "--max-age", "0"))[0] == 1
    code, out, _ = await ask("prune", "--inbox-days", "1", "--archive-days", "1")
    assert (code, out) == (0, "removed 0 from the archive and 0 from the inbox\n")
    assert (await ask("prune", "--inbox-days", "1e9"))[0] == 1


async def test_the_command_migrates(postgres_url, database, capsys):
    async def ask(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(run, capsys, postgres_url, *arguments)

    assert await ask("migrate") == (0, "nothing\n", "")
    assert (await ask("migrate", "--check"))[0] == 0
    code, out, _ = await ask("--schema", "other", "migrate", "--check")
    assert (code, out) == (1, "not applied: 0001\n")
    assert await ask("--schema", "other", "migrate") == (0, "applied 0001\n", "")
    code, _, error = await ask("--schema", "nobody", "lag")
    assert code == 1
    assert "common-outbox migrate" in error


def test_the_command_finds_its_database(postgres_url, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["lag"]) == 1
    assert "--config" in capsys.readouterr().err
    (tmp_path / "url").write_text(postgres_url + "\n")
    assert main(["--url-file", "url", "lag"]) == 0
    assert main(["--url-file", "missing", "lag"]) == 1
    (tmp_path / "outbox_settings.py").write_text(
        "from common.db.postgres import PostgresConfig\n"
        f"def database():\n    return PostgresConfig(url={postgres_url!r})\n"
    )
    assert main(["--config", "outbox_settings:database", "lag"]) == 0
    (tmp_path / "pyproject.toml").write_text(
        '[tool.common-db]\nconfig = "outbox_settings:database"\n'
    )
    assert main(["lag"]) == 0
    assert main(["--schema", "s", "lag"]) == 1
    for wrong in ("outbox_settings", "outbox_settings:nothing", "json:dumps"):
        assert main(["--config", wrong, "lag"]) == 1
    capsys.readouterr()
    assert main(["--url", "mysql://user:secret@host/db", "lag"]) == 1
    error = capsys.readouterr().err
    assert "postgresql://" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lag", "--max-age", "nan"],
        ["lag", "--max-age", "-1"],
        ["lag", "--max-rows", "-1"],
        ["lag", "--max-rows", "many"],
        ["dead", "--limit", "x"],
        ["dead", "--after", "-1"],
        ["prune", "--inbox-days", "-1"],
        ["prune", "--archive-days", "inf"],
        ["--url", "x", "--config", "y:z", "lag"],
        ["publish"],
    ],
)
def test_nonsense_is_told_before_anything_is_asked(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: common-outbox" in capsys.readouterr().err


async def test_every_answer_can_be_had_as_json(postgres_url, database, dead, capsys):
    async def ask(*arguments: str):
        code, out, _ = await asyncio.to_thread(run, capsys, postgres_url, "--json", *arguments)
        return code, json.loads(out)

    code, status = await ask("status")
    assert (code, status["lag"]["dead"], status["free"], status["relays"]) == (0, 5, 64, [])
    code, letters = await ask("dead", "--limit", "2")
    assert [each["id"] for each in letters] == dead[:2]
    assert letters[0]["died"].endswith("+00:00")
    assert await ask("retry", dead[0], "unknown") == (1, {"done": 1, "missing": 1})
    assert await ask("discard", dead[1]) == (0, {"done": 1, "missing": 0})
    assert await ask("prune") == (0, {"archive": 0, "inbox": 0})
    assert await ask("migrate", "--check") == (0, {"pending": []})
    assert await ask("migrate") == (0, {"applied": []})


async def test_nothing_of_a_dead_letter_moves_the_cursor(postgres_url, database, dead, capsys):
    await run_sql(database, "UPDATE outbox_dead SET aggregateid = $1, last_error = $1", "\x1b[2J\n")
    code, out, _ = await asyncio.to_thread(run, capsys, postgres_url, "dead")
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) == 5
    assert "key=\\x1b[2J\\x0a" in out


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda url: url.replace("postgres:", "postgres:wrong", 1), "refused the user"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "does not exist"),
        (lambda url: "postgresql://u:secret@127.0.0.1:1/x", "PostgreSQL"),
        (lambda url: "nonsense", "postgresql://"),
        (lambda url: "", "postgresql://"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(postgres_url, broken, told, capsys):
    url = broken(postgres_url)
    code, out, error = run(capsys, url, "status")
    assert (code, out) == (1, "")
    assert told in error
    assert len(error.splitlines()) == 1
    for secret in ("secret", postgres_url.partition("@")[0].rpartition(":")[2]):
        assert secret not in error


@pytest.mark.parametrize(
    "command", [["status"], ["lag"], ["dead"], ["retry", "x"], ["discard", "--all"]]
)
async def test_each_command_tells_of_missing_tables(postgres_url, database, capsys, command):
    await run_sql(database, "DROP TABLE outbox, outbox_dead")
    code, out, error = await asyncio.to_thread(run, capsys, postgres_url, *command)
    assert (code, out) == (1, "")
    assert "common-outbox migrate" in error
    assert "Traceback" not in error


def test_a_configuration_that_raises_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outbox_broken.py").write_text(
        "from common.db.postgres import PostgresConfig\n"
        "def fails():\n    raise RuntimeError('secret')\n"
        "def wrong():\n    return PostgresConfig(url='mysql://u:secret@h/d')\n"
    )
    (tmp_path / "outbox_unreadable.py").write_text("this is no Python: secret")
    for name in ("outbox_broken:fails", "outbox_broken:wrong", "outbox_unreadable:config"):
        assert main(["--config", name, "lag"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("common-outbox: ")
        assert "secret" not in error
