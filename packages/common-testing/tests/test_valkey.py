import asyncio
import socket

import pytest
import redis.asyncio as redis

from common.testing import ServerError, ValkeyServer


async def test_with_an_append_only_file_data_survive_kill_and_restart(place):
    async with ValkeyServer(append_only=True) as server:
        url = server.url
        async with redis.from_url(url) as client:
            for number in range(100):
                await client.set(f"key{number}", number)
            server.kill()
            with pytest.raises(redis.ConnectionError):
                await client.ping()
        await server.restart()
        assert server.url == url
        async with redis.from_url(url) as client:
            assert await client.dbsize() == 100


async def test_without_one_it_starts_empty_as_a_cache_does(place):
    async with ValkeyServer() as server:
        async with redis.from_url(server.url) as client:
            await client.set("key", "value")
        server.kill()
        await server.restart()
        async with redis.from_url(server.url) as client:
            assert await client.dbsize() == 0


async def test_a_paused_server_hangs_its_clients_and_goes_on_after_resume(place):
    async with ValkeyServer() as server, redis.from_url(server.url) as client:
        await client.set("key", "value")
        server.pause()
        query = asyncio.ensure_future(client.get("key"))
        done, _ = await asyncio.wait([query], timeout=0.3)
        assert not done
        server.resume()
        assert await asyncio.wait_for(query, 20) == b"value"


async def test_arguments_reach_the_server(place):
    async with (
        ValkeyServer(arguments=["--maxmemory", "10mb"]) as server,
        redis.from_url(server.url) as client,
    ):
        assert await client.config_get("maxmemory") == {"maxmemory": "10485760"}


async def test_a_wrong_argument_is_reported_with_the_log(place):
    with pytest.raises(ServerError, match=r"Valkey ended early[\s\S]*no-such-option"):
        await ValkeyServer(arguments=["--no-such-option", "1"]).start()
    place.assert_clean()


async def test_the_password_is_needed_may_be_awkward_and_is_on_no_command_line(place):
    async with ValkeyServer(password='s"e@c\\r/et x') as server:
        async with redis.from_url(server.url) as client:
            assert await client.ping()
        async with redis.Redis(host=server.host, port=server.port) as client:
            with pytest.raises(redis.AuthenticationError):
                await client.ping()
        assert not any("et x" in command for command in place.processes().values())


async def test_a_taken_port_is_one_line_that_says_what_to_do(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ServerError, match=rf"port {port} of 127.0.0.1 cannot be used.*choose another"
        ):
            await ValkeyServer(port=port).start()
    place.assert_clean()


async def test_many_servers_at_once_never_meet_on_a_port(place):
    servers = [ValkeyServer() for _ in range(12)]
    try:
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                tasks.create_task(server.start())
        assert len({server.port for server in servers}) == 12
    finally:
        for server in servers:
            await server.close()
