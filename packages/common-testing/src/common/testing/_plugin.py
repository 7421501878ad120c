"""The pytest plugin: servers that start when a fixture asks, a clean place for each test.

Everything heavy is imported by the fixtures, because pytest imports this module in every
run, also of projects whose tests need no server.
"""

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from common.testing._databases import Databases, Template
    from common.testing._isolation import Accounts, Keyspaces, OneAccount
    from common.testing._session import Session
    from common.testing._shared import ServerInfo

KEY = "common_testing_session"
BASE = "common_testing_base"
session_key = pytest.StashKey[str]()
session_base = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--services``."""
    parser.getgroup("common-testing").addoption(
        "--services",
        choices=("embedded", "external"),
        default="embedded",
        help="servers for the fixtures: started from wheels (embedded, the default), or those that "
        "COMMON_TESTING_POSTGRES_URL, _REDIS_URL and _NATS_URL name (external)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a key, the same one in all its processes."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    config.stash[session_key] = given.get(KEY) or secrets.token_hex(8)
    config.stash[session_base] = given.get(BASE, "")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker the session's key, and where its servers are."""
    from common.testing._places import session_base as choose  # noqa: PLC0415

    stash = node.config.stash
    stash[session_base] = stash[session_base] or str(choose() or "")
    node.workerinput[KEY] = stash[session_key]
    node.workerinput[BASE] = stash[session_base]


@pytest.fixture(scope="session")
def _common_testing(request: pytest.FixtureRequest) -> "Session":
    from pathlib import Path  # noqa: PLC0415

    from common.testing._session import Session  # noqa: PLC0415

    stash = request.config.stash
    external = request.config.getoption("--services") == "external"
    base = Path(stash[session_base]) if stash[session_base] else None
    return Session(stash[session_key], external=external, base=base)


@pytest.fixture(scope="session")
def postgres_server(_common_testing: "Session") -> Iterator["ServerInfo"]:
    """The session's PostgreSQL server, shared by all xdist workers."""
    with _common_testing.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(_common_testing: "Session") -> Iterator["ServerInfo"]:
    """The Valkey server of this process; other xdist workers have their own."""
    with _common_testing.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def nats_server(_common_testing: "Session") -> Iterator["ServerInfo"]:
    """The session's NATS server with JetStream, shared by all xdist workers."""
    with _common_testing.nats() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template() -> "Template":
    """What `postgres_url` starts from; override it in a conftest.py.

    Return SQL, the path of a file with SQL, or an async function that gets the URL of an
    empty database and fills it (with migrations, say). It runs once in the whole session.
    """
    return None


@pytest.fixture(scope="session")
def _postgres_databases(
    _common_testing: "Session", postgres_server: "ServerInfo"
) -> Iterator["Databases"]:
    with _common_testing.databases(postgres_server) as databases:
        yield databases


@pytest.fixture
def postgres_url(_postgres_databases: "Databases", postgres_template: "Template") -> Iterator[str]:
    """URL of a fresh database, a copy of `postgres_template`; it is dropped after the test."""
    url = _postgres_databases.acquire(postgres_template)
    yield url
    _postgres_databases.release(url)


@pytest.fixture(scope="session")
def _valkey_keyspaces(
    _common_testing: "Session", valkey_server: "ServerInfo"
) -> Iterator["Keyspaces"]:
    with _common_testing.keyspaces(valkey_server) as keyspaces:
        yield keyspaces


@pytest.fixture
def redis_url(_valkey_keyspaces: "Keyspaces") -> Iterator[str]:
    """URL of an empty Valkey database that no other test uses meanwhile."""
    url = _valkey_keyspaces.acquire()
    yield url
    _valkey_keyspaces.release(url)


@pytest.fixture(scope="session")
def _nats_accounts(
    _common_testing: "Session", nats_server: "ServerInfo"
) -> Iterator["Accounts | OneAccount"]:
    with _common_testing.accounts(nats_server) as accounts:
        yield accounts


@pytest.fixture
def nats_url(_nats_accounts: "Accounts | OneAccount") -> Iterator[str]:
    """URL of an empty NATS account with JetStream that no other test uses meanwhile."""
    url = _nats_accounts.acquire()
    yield url
    _nats_accounts.release(url)
