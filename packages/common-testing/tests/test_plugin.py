import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from common.testing import NatsServer, PostgresServer, ValkeyServer
from common.testing._wire import valkey

HEADER = """
import asyncio, os, time
from pathlib import Path
import pytest
from common.testing._psql import psql
from common.testing._wire import nats, valkey
"""
ALL_THREE = """
@pytest.mark.parametrize("number", range(8))
def test_postgres(postgres_url, number):
    assert psql(postgres_url, "SELECT count(*) FROM pg_class WHERE relname = 'mine'") == "0"
    psql(postgres_url, "CREATE TABLE mine (n int)")

@pytest.mark.parametrize("number", range(8))
def test_redis(redis_url, number):
    with valkey(redis_url) as client:
        assert client.call("DBSIZE") == 0
        client.call("SET", "key", "value")

@pytest.mark.parametrize("number", range(8))
def test_nats(nats_url, number):
    with nats(nats_url) as client:
        assert client.request("$JS.API.STREAM.NAMES")["total"] == 0
        client.request("$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})
"""
ONE_OF_EACH = """
def test_{name}(postgres_url, redis_url, nats_url):
    Path({marker!r}).write_text("here")
    {then}
"""


class Project:
    """A project of a user, with tests that are run in a process of their own."""

    def __init__(self, place):
        self.place = place
        self.root = place.directory.parent / "project"
        self.root.mkdir()
        (self.root / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")

    def write(self, code, name="test_project.py"):
        (self.root / name).write_text(HEADER + textwrap.dedent(code))

    def start(self, *arguments, **options):
        # tach's plugin takes Ctrl-C away from pytest; the others only take time.
        without = ("cacheprovider", "tach", "asyncio", "anyio", "hypothesispytest", "valkey")
        command = [
            sys.executable,
            "-m",
            "pytest",
            *(f"-pno:{name}" for name in without),
            *arguments,
        ]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.place.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, *arguments):
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=100)
        return process.returncode, output


@pytest.fixture
def project(place):
    return Project(place)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_every_test_finds_a_clean_place(project, workers):
    project.write(ALL_THREE)
    code, output = project.run(*workers)
    assert code == 0, output
    assert "24 passed" in output
    project.place.assert_clean()


def test_xdist_workers_share_postgres_and_nats_and_have_a_valkey_each(project):
    project.write(
        """
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # each would choose another folder
        Path(worker).mkdir()
        os.environ["COMMON_TESTING_DIRECTORY"] = str(Path(worker).absolute())
    """,
        "conftest.py",
    )
    project.write("""
    @pytest.mark.parametrize("number", range(2))
    def test_ports(postgres_server, nats_server, valkey_server, worker_id, number):
        Path(f"ports-{worker_id}").write_text(
            f"{postgres_server.port} {nats_server.port} {valkey_server.port}"
        )
        deadline = time.monotonic() + 60  # so that each worker runs one of the two
        while len(list(Path().glob("ports-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    """)
    code, output = project.run("-n", "2")
    assert code == 0, output
    first, second = (path.read_text().split() for path in project.root.glob("ports-*"))
    assert first[:2] == second[:2]
    assert first[2] != second[2]


def test_two_sessions_at_once_share_nothing(project):
    project.write("""
    def test_ports(postgres_server, nats_server, valkey_server):
        Path(f"ports-{os.getpid()}").write_text(
            f"{postgres_server.port} {nats_server.port} {valkey_server.port}"
        )
        deadline = time.monotonic() + 60
        while len(list(Path().glob("ports-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    """)
    with project.start() as one, project.start() as other:
        for process in (one, other):
            output, _ = process.communicate(timeout=100)
            assert process.returncode == 0, output
    ports = [port for path in project.root.glob("ports-*") for port in path.read_text().split()]
    assert len(set(ports)) == 6


def test_nothing_starts_until_a_fixture_asks(project):
    project.write("""
    def test_nothing():
        directory = Path(os.environ["COMMON_TESTING_DIRECTORY"])
        assert list(directory.iterdir()) == []

    def test_valkey_only(valkey_server):
        directory = Path(os.environ["COMMON_TESTING_DIRECTORY"])
        assert len(list(directory.iterdir())) == 1
    """)
    code, output = project.run()
    assert code == 0, output


def test_the_plugin_imports_nothing_heavy():
    code = "import sys; import common.testing._plugin; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    ours = [name for name in modules if name.startswith("common.testing.")]
    assert ours == ["common.testing._plugin"]
    assert "asyncio" not in modules


def test_a_template_is_prepared_once_in_the_session_over_all_workers(project):
    sql = "CREATE TABLE t (n int); INSERT INTO t VALUES (7)"
    (project.root / "schema.sql").write_text(sql)
    for number, template in enumerate(("prepare", repr(sql), "Path('schema.sql')")):
        project.write(
            f"""
async def prepare(url):
    with open("prepared", "a") as file:
        file.write("x")
    await asyncio.sleep(0.2)
    psql(url, {sql!r})

@pytest.fixture(scope="session")
def postgres_template():
    return {template}

@pytest.mark.parametrize("number", range(6))
def test_copy(postgres_url, number):
    assert psql(postgres_url, "SELECT sum(n) FROM t; UPDATE t SET n = 8") == "7"
""",
            f"test_{number}.py",
        )
    code, output = project.run("-n", "2")
    assert code == 0, output
    assert "18 passed" in output
    assert (project.root / "prepared").read_text() == "x"


def test_a_template_that_forgets_its_connection_still_works(project):
    project.write("""
    import asyncpg

    async def prepare(url):
        global forgotten
        forgotten = await asyncpg.connect(url)
        await forgotten.execute("CREATE TABLE t (n int)")
        await asyncio.sleep(0)
        forgotten._transport.pause_reading()
        forgotten = forgotten._transport._sock.dup()  # outlives the loop
        await asyncio.sleep(0)

    @pytest.fixture(scope="session")
    def postgres_template():
        return prepare

    def test_copy(postgres_url):
        assert psql(postgres_url, "SELECT count(*) FROM t") == "0"
        forgotten.close()
    """)
    code, output = project.run("-W", "default")
    assert code == 0, output


def test_a_failing_template_fails_its_tests_with_the_reason_and_spoils_no_other(project):
    project.write("""
    @pytest.fixture(scope="session")
    def postgres_template():
        return "CREATE TABLE t (n int);\\nCREATE NONSENSE;"

    def test_one(postgres_url):
        pass

    def test_two(postgres_url):
        pass
    """)
    project.write(
        """
    def test_three(postgres_url):
        assert psql(postgres_url, "SELECT 1") == "1"
    """,
        "test_other.py",
    )
    code, output = project.run()
    assert code == 1
    assert "1 passed, 2 errors" in output
    assert 'syntax error at or near "NONSENSE"' in output


def test_the_fixtures_can_be_asked_for_inside_an_async_test(project):
    project.write("""
    def test_async(request):
        async def inside():
            assert psql(request.getfixturevalue("postgres_url"), "SELECT 1") == "1"
            with valkey(request.getfixturevalue("redis_url")) as client:
                assert client.call("PING") == "PONG"
        asyncio.run(inside())
    """)
    code, output = project.run()
    assert code == 0, output


def test_connections_left_open_do_not_stop_the_next_test(project):
    project.write("""
    import subprocess
    from common.testing._databases import Psql
    left = []

    @pytest.mark.parametrize("number", range(4))
    def test_leak(postgres_url, number):
        left.append(Psql(postgres_url))
        left[-1].run("BEGIN")

    def test_tidy():
        for psql in left:
            psql.close()
    """)
    code, output = project.run()
    assert code == 0, output


def test_dropped_databases_do_not_pile_up(project):
    project.write("""
    counts = []

    @pytest.mark.parametrize("number", range(12))
    def test_count(postgres_url, postgres_server, number):
        listing = "SELECT count(*) FROM pg_database WHERE datname LIKE 'ct%'"
        counts.append(int(psql(postgres_server.url, listing)))

    def test_bound():
        assert max(counts) <= 3
    """)
    code, output = project.run()
    assert code == 0, output


def wait_for(project, count):
    project.place.wait(
        lambda: len(list(project.root.glob("marker-*"))) >= count,
        lambda: f"the tests do not start: {list(project.root.iterdir())}",
        seconds=60,
    )


def hanging(project, count):
    """Tests that use every server, fill them a little and then hang.

    They end when their parent does, as xdist would make them after 15 s, for a shorter test.
    """
    for number in range(count):
        then = (
            'psql(postgres_url, "CREATE TABLE t (n int)")\n'
            "    parent = os.getppid()\n"
            "    while os.getppid() == parent:\n"
            "        time.sleep(0.05)"
        )
        code = ONE_OF_EACH.format(
            name=number, marker=str(project.root / f"marker-{number}"), then=then
        )
        project.write(code, f"test_{number}.py")


def test_a_failing_test_leaves_nothing(project):
    project.write(ONE_OF_EACH.format(name="fails", marker="marker", then="assert False"))
    code, _ = project.run()
    assert code == 1
    project.place.assert_clean()


def test_an_exit_in_the_middle_leaves_nothing(project):
    project.write(ONE_OF_EACH.format(name="exits", marker="marker", then="os._exit(3)"))
    code, _ = project.run()
    assert code == 3
    project.place.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_pytest_leaves_nothing(project, number):
    hanging(project, 1)
    with project.start() as process:
        wait_for(project, 1)
        process.send_signal(number)
        process.communicate(timeout=60)
    project.place.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_xdist_controller_leaves_nothing(project, number):
    hanging(project, 2)
    with project.start("-n", "2", start_new_session=True) as process:
        wait_for(project, 2)
        if number == signal.SIGINT:  # as a terminal does: to the whole group
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        process.communicate(timeout=60)
    project.place.assert_clean(seconds=60)


def test_a_killed_worker_takes_nothing_from_the_others(project):
    project.write("""
    @pytest.mark.parametrize("number", range(10))
    def test_work(postgres_url, redis_url, nats_url, number):
        psql(postgres_url, "CREATE TABLE t (n int)")
        if number == 4:
            os.kill(os.getpid(), 9)
        with valkey(redis_url) as client, nats(nats_url) as other:
            client.call("SET", "key", "value")
            other.request("$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})
    """)
    code, output = project.run("-n", "2")
    assert code == 1
    assert re.search(r"1 failed, 9 passed", output), output
    project.place.assert_clean()


async def test_external_servers_are_used_and_left_as_they_were(project):
    (project.place.directory / "external").mkdir()
    async with PostgresServer() as postgres, ValkeyServer() as cache, NatsServer() as broker:
        with valkey(cache.url.replace("/0", "/1")) as client:
            client.call("SET", "precious", "data")
        project.place.env |= {
            "COMMON_TESTING_POSTGRES_URL": postgres.url.replace(
                "postgresql:", "postgresql+asyncpg:"
            ),
            "COMMON_TESTING_REDIS_URL": cache.url,
            "COMMON_TESTING_NATS_URL": broker.url,
            "COMMON_TESTING_DIRECTORY": str(project.place.directory / "external"),
        }
        project.write(
            ALL_THREE.replace(
                'client.request("$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})',
                "pass",
            )
            + """
@pytest.fixture(scope="session")
def postgres_template():
    return "CREATE TABLE prepared (n int)"

def test_ports(postgres_server, valkey_server, nats_server, redis_url):
    assert list(Path(os.environ["COMMON_TESTING_DIRECTORY"]).iterdir()) == []
    assert postgres_server.url == os.environ["COMMON_TESTING_POSTGRES_URL"]
    assert redis_url.rpartition("/")[2] not in ("0", "1")
"""
        )
        process = project.start("-n", "2", "--services=external")
        output, _ = await asyncio.to_thread(process.communicate, timeout=100)
        assert process.returncode == 0, output
        assert (
            await postgres.execute("SELECT datname FROM pg_database WHERE datname LIKE 'ct%'") == ""
        )
        with valkey(cache.url.replace("/0", "/1")) as client:
            assert client.call("GET", "precious") == "data"
        with valkey(cache.url) as client:
            assert client.call("DBSIZE") == 0
    (project.place.directory / "external").rmdir()


async def test_what_a_crashed_session_left_on_an_external_server_is_swept_by_the_next(project):
    (project.place.directory / "external").mkdir()
    async with PostgresServer() as postgres, ValkeyServer() as cache, NatsServer() as broker:
        project.place.env |= {
            "COMMON_TESTING_POSTGRES_URL": postgres.url,
            "COMMON_TESTING_REDIS_URL": cache.url,
            "COMMON_TESTING_NATS_URL": broker.url,
        }
        listing = "SELECT count(*) FROM pg_database WHERE datname LIKE 'ct%'"
        project.write(ONE_OF_EACH.format(name="dies", marker="marker", then="os._exit(3)"))
        process = project.start("--services=external")
        await asyncio.to_thread(process.communicate, timeout=100)
        assert process.returncode == 3
        assert int(await postgres.execute(listing)) > 0
        project.write(ONE_OF_EACH.format(name="lives", marker="marker", then="pass"))
        process = project.start("--services=external")
        output, _ = await asyncio.to_thread(process.communicate, timeout=100)
        assert process.returncode == 0, output
        assert int(await postgres.execute(listing)) == 0
    (project.place.directory / "external").rmdir()


def test_external_servers_that_are_not_named_or_not_there_are_said(project):
    urls = {
        "COMMON_TESTING_POSTGRES_URL": "postgresql://nobody:secret@127.0.0.1:1/x",
        "COMMON_TESTING_REDIS_URL": "redis://:secret@127.0.0.1:1/0",
        "COMMON_TESTING_NATS_URL": "nats://nobody:secret@127.0.0.1:1",
    }
    for fixture in ("postgres_url", "redis_url", "nats_url"):
        project.write(f"def test_it({fixture}):\n    pass\n", f"test_{fixture}.py")
    for variable in urls:
        project.place.env.pop(variable, None)
    code, output = project.run("--services=external", "--tb=line")
    assert code == 1
    assert "3 errors" in output
    for variable in urls:
        assert f"--services=external needs the server's URL: set {variable}" in output
    project.place.env |= urls
    code, output = project.run("--services=external", "--tb=line")
    assert code == 1
    for variable in urls:
        assert re.search(f"{variable}: .*refused", output)
    assert "secret" not in output


def can_enter(path):
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not can_enter(Path(sys.executable)), reason="others cannot reach this Python")
def test_an_ordinary_user_without_a_home_can_do_all_of_it(project):
    project.write(ALL_THREE)
    for path in (project.root, project.place.directory):
        os.chown(path, 65534, 65534)
    project.place.env |= {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    with project.start("-n", "2", user=65534, group=65534, extra_groups=[]) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "24 passed" in output
    project.place.assert_clean()
