import asyncio
import os
import shutil
import socket
from pathlib import Path

import asyncpg
import pytest

from common.testing import PostgresServer, ServerError, _places, _postgres
from common.testing._binaries import postgres_bin


def segments():
    """System V shared memory, which would outlive a careless end."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    return {line.split()[1] for line in lines[1:]}


async def test_committed_data_and_the_port_survive_kill_and_restart(place):
    async with PostgresServer() as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE t (n int)")
        await connection.executemany("INSERT INTO t VALUES ($1)", [(n,) for n in range(100)])
        url, port = server.url, server.port
        server.kill()
        assert not server.running
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await connection.execute("SELECT 1")
        with pytest.raises(OSError):
            await asyncpg.connect(url)
        await server.restart()
        assert (server.url, server.port) == (url, port)
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM t") == 100
        await connection.close()


async def test_a_killed_server_that_is_never_restarted_leaves_no_shared_memory(place):
    async with PostgresServer() as server:
        lines = (server.directory / "data" / "postmaster.pid").read_text().splitlines()
        segment = lines[6].split()[1]
        assert segment in segments()
        server.kill()
    assert segment not in segments()


async def test_a_paused_server_hangs_its_clients_and_goes_on_after_resume(place):
    async with PostgresServer() as server:
        connection = await asyncpg.connect(server.url)
        server.pause()
        query = asyncio.create_task(connection.fetchval("SELECT 42"))
        done, _ = await asyncio.wait([query], timeout=0.3)
        assert not done
        server.resume()
        assert await asyncio.wait_for(query, 20) == 42
        await connection.close()


async def test_settings_reach_the_server(place):
    async with PostgresServer(settings={"max_connections": "7", "wal_level": "logical"}) as server:
        assert await server.execute("SHOW max_connections") == "7"
        assert await server.execute("SHOW wal_level; SHOW synchronous_commit") == "logical\non"


async def test_a_wrong_setting_is_reported_with_the_log(place):
    with pytest.raises(ServerError, match="no_such_setting"):
        await PostgresServer(settings={"no_such_setting": "1"}).start()
    place.assert_clean()


async def test_execute_gives_rows_and_reports_errors(place):
    async with PostgresServer() as server:
        assert (
            await server.execute("SELECT 1, 'a' UNION ALL SELECT 2, 'b' ORDER BY 1") == "1\ta\n2\tb"
        )
        with pytest.raises(ServerError, match='relation "missing" does not exist'):
            await server.execute("SELECT * FROM missing")
        await server.execute('CREATE DATABASE "odd /name"')
        assert (
            await server.execute("SELECT current_database()", database="odd /name") == "odd /name"
        )


async def test_the_password_is_needed_and_may_be_awkward(place):
    async with PostgresServer(password="p@ss:/w%rd 'x") as server:
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        assert await server.execute("SELECT 1") == "1"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url, password="wrong")


async def test_the_users_own_postgres_variables_do_not_interfere(place, monkeypatch):
    for name, value in {
        "PGHOST": "nowhere.invalid",
        "PGPORT": "1",
        "PGOPTIONS": "-c nonsense=1",
        "PGDATA": "/nowhere",
        "PGPASSWORD": "wrong",
        "LC_ALL": "xx_YY.no",
        "LANG": "xx_YY.no",
    }.items():
        monkeypatch.setenv(name, value)
    async with PostgresServer() as server:
        assert await server.execute("SELECT 1") == "1"


async def test_a_taken_port_is_one_line_that_says_what_to_do(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError) as caught:
            await PostgresServer(port=port).start()
        assert f"port {port} of 127.0.0.1 cannot be used" in str(caught.value)
        assert "choose another port" in str(caught.value)
        assert "\n" not in str(caught.value)
    place.assert_clean()


async def test_a_killed_servers_port_is_kept_from_others(place):
    async with PostgresServer() as server:
        server.kill()
        with pytest.raises(OSError), socket.socket() as thief:
            thief.bind(("127.0.0.1", server.port))
        await server.restart()


async def test_the_extensions_of_the_wheel_can_be_made(place):
    async with PostgresServer() as server:
        await server.execute(
            "CREATE EXTENSION vector; CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
async def test_as_root_it_runs_as_another_user_from_a_copy_when_that_user_cannot_reach_the_wheel(
    place, monkeypatch, tmp_path
):
    private = tmp_path / "private"
    root = postgres_bin().parent
    _places.copy_tree(root, private / root.parent.name / root.name)
    libraries = root.parent.with_name(root.parent.name + ".libs")
    _places.copy_tree(libraries, private / libraries.name)
    private.chmod(0o700)
    monkeypatch.setenv(
        "COMMON_TESTING_POSTGRES_BIN", str(private / root.parent.name / root.name / "bin")
    )
    async with PostgresServer() as server:
        assert len(place.files()) == 2
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert await server.execute("CREATE EXTENSION vector; SELECT '[1]'::vector") == "[1]"
    place.assert_clean()
    shutil.rmtree(private)


def test_our_settings_never_give_up_what_was_committed():
    # With synchronous_commit=off a killed server would forget the last transactions.
    assert _postgres.SETTINGS["synchronous_commit"] == "on"
