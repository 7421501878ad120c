from itertools import pairwise

import pytest

from common.testing import NatsServer, ServerError, ValkeyServer, _isolation
from common.testing._isolation import Accounts, Keyspaces, LeasedKeyspaces
from common.testing._nats import USER
from common.testing._wire import nats, valkey


async def test_accounts_are_given_to_one_at_a_time_and_come_back_empty(place, monkeypatch):
    monkeypatch.setattr(_isolation, "ACCOUNTS", 3)
    async with NatsServer(accounts=3) as server:
        accounts = Accounts(server.url, server.directory, USER)
        urls = [accounts.acquire() for _ in range(3)]
        assert sorted(urls) == sorted(server.account_urls)
        with pytest.raises(ServerError, match="all 3 NATS accounts"):
            accounts.acquire()
        for url in urls:
            with nats(url) as client:
                for name in ("A", "B"):
                    client.request(
                        f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": [name]}
                    )
            accounts.release(url)
        for _ in range(3):
            with nats(accounts.acquire()) as client:
                assert client.request("$JS.API.STREAM.NAMES")["total"] == 0
        accounts.close()


async def test_accounts_of_a_killed_process_are_given_out_again_and_emptied(place, monkeypatch):
    monkeypatch.setattr(_isolation, "ACCOUNTS", 1)
    async with NatsServer(accounts=1) as server:
        code = f"""
from pathlib import Path
from common.testing import _isolation
from common.testing._wire import nats
_isolation.ACCOUNTS = 1
accounts = _isolation.Accounts({server.url!r}, Path({str(server.directory)!r}), {USER!r})
with nats(accounts.acquire()) as client:
    client.request("$JS.API.STREAM.CREATE.A", {{"name": "A", "subjects": ["A"]}})
print("taken", flush=True)
input()
"""
        accounts = Accounts(server.url, server.directory, USER)
        with place.python(code, stdin=-1) as other:
            assert other.stdout.readline() == "taken\n"
            with pytest.raises(ServerError, match="all 1 NATS accounts"):
                accounts.acquire()
            other.kill()
            other.communicate(timeout=20)
        with nats(accounts.acquire()) as client:
            assert client.request("$JS.API.STREAM.NAMES")["total"] == 0
        accounts.close()


async def test_keyspaces_take_turns_and_never_include_database_0(place):
    async with ValkeyServer() as server:
        keyspaces = Keyspaces(server.url)
        with valkey(server.url) as client:
            client.call("SET", "session", "data")
        seen = []
        for _ in range(40):
            url = keyspaces.acquire()
            with valkey(url) as client:
                assert client.call("DBSIZE") == 0
                client.call("SET", "key", "value")
            seen.append(url)
        assert len(set(seen)) == 15
        assert all(first != second for first, second in pairwise(seen))
        with valkey(server.url) as client:
            assert client.call("GET", "session") == "data"


async def test_leases_keep_sessions_apart_and_foreign_data_alone(place):
    async with ValkeyServer() as server:
        with valkey(server.url.replace("/0", "/1")) as client:
            client.call("SET", "precious", "data")
        one, other = (LeasedKeyspaces(server.url, name * 16) for name in "ab")
        assert one.acquire().endswith("/2")
        assert other.acquire().endswith("/3")
        with valkey(one.acquire()) as client:
            client.call("SET", "key", "value")
        # A crash: the lease runs out, but what is there is known as ours.
        with valkey(server.url) as client:
            client.call("DEL", "common-testing:lease:2")
        third = LeasedKeyspaces(server.url, "c" * 16)
        url = third.acquire()
        assert url.endswith("/2")
        with valkey(url) as client:
            assert client.call("DBSIZE") == 0
        for keyspaces in (other, third):
            keyspaces.close()
        with valkey(server.url.replace("/0", "/1")) as client:
            assert client.call("GET", "precious") == "data"


async def test_a_full_server_is_refused_with_what_to_do(place):
    async with ValkeyServer() as server:
        for number in range(16):
            with valkey(server.url.replace("/0", f"/{number}")) as client:
                client.call("SET", "precious", "data")
        with pytest.raises(ServerError, match="no empty database is left there"):
            LeasedKeyspaces(server.url, "a" * 16).acquire()
