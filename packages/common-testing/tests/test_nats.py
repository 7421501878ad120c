import asyncio
import socket
from contextlib import contextmanager

import nats
import nats.errors
import nats.js.errors
import pytest

from common.testing import NatsCluster, NatsServer, ServerError, _wire


async def connect(urls, **options):
    async def quiet(error):
        """The default prints every lost connection."""

    return await nats.connect(urls, error_cb=quiet, **options)


async def publish(stream, subject, number):
    """As any publisher to a cluster: again until acknowledged, under the same message id.

    A new stream's leader answers before every node knows that it listens: until then the other
    nodes say "no responders".
    """
    async with asyncio.timeout(60):
        while True:
            try:
                await stream.publish(subject, b"%d" % number, headers={"Nats-Msg-Id": str(number)})
                return
            except (nats.js.errors.NoStreamResponseError, TimeoutError):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("sync_interval", [None, "always"])
async def test_acknowledged_messages_survive_kill_and_restart(place, sync_interval):
    async with NatsServer(sync_interval=sync_interval) as server:
        configured = (await server.monitor("/varz"))["jetstream"]["config"]
        assert configured.get("sync_always", False) is (sync_interval == "always")
        client = await connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s.>"])
        for number in range(100):
            await stream.publish("s.a", str(number).encode())
        url = server.url
        server.kill()
        await server.restart()
        assert server.url == url
        async with asyncio.timeout(20):
            while not client.is_connected:
                await asyncio.sleep(0.02)
        assert (await stream.stream_info("S")).state.messages == 100
        await client.close()


async def test_a_paused_server_hangs_its_clients_and_goes_on_after_resume(place):
    async with NatsServer() as server:
        client = await connect(server.url)
        server.pause()
        flush = asyncio.create_task(client.flush(30))
        done, _ = await asyncio.wait([flush], timeout=0.3)
        assert not done
        server.resume()
        await asyncio.wait_for(flush, 20)
        await client.close()


async def test_accounts_do_not_see_each_other(place):
    async with NatsServer(accounts=2) as server:
        assert len(server.account_urls) == 2
        clients = [await connect(url) for url in (server.url, *server.account_urls)]
        heard = []

        async def hear(message):
            heard.append(message.data)

        for client in clients[1:]:
            await client.subscribe("x", cb=hear)
        for client, count in zip(clients, (0, 1, 0), strict=True):
            stream = client.jetstream()
            if count:
                await stream.add_stream(name="S", subjects=["x"])
            assert len(await stream.streams_info()) == count
        await clients[1].publish("x", b"one")
        for client in clients:
            await client.flush()
        assert heard == [b"one"]
        for client in clients:
            await client.close()


async def test_the_password_is_needed(place):
    async with NatsServer() as server:
        with _wire.nats(server.url) as client:
            assert client.request("$JS.API.INFO")["streams"] == 0
        for user in ("", "common:wrong@"):
            with (
                pytest.raises(
                    ServerError, match="NATS refuses the connection: 'Authorization Violation'"
                ),
                _wire.nats(f"nats://{user}{server.host}:{server.port}"),
            ):
                pass


async def test_jetstream_can_be_left_out_and_configuration_added(place):
    async with NatsServer(jetstream=False, config="max_payload: 2048") as server:
        client = await connect(server.url)
        assert client.max_payload == 2048
        await client.close()
        assert (await server.monitor("/jsz"))["disabled"] is True


async def test_a_wrong_configuration_is_reported_with_the_log(place):
    with pytest.raises(ServerError, match=r"NATS ended early[\s\S]*nonsense"):
        await NatsServer(config="nonsense: {}").start()
    place.assert_clean()


@contextmanager
def taken_port():
    """A port that is taken while the two behind it, which a cluster takes, too, are free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            try:
                for following in (port + 1, port + 2):
                    socket.create_server(("127.0.0.1", following)).close()
            except OSError:
                continue
            yield port
            return


async def test_a_taken_port_is_one_line_that_says_what_to_do(place):
    with taken_port() as port:
        with pytest.raises(
            ServerError, match=rf"port {port} of 127.0.0.1 cannot be used.*choose another"
        ):
            await NatsServer(port=port).start()
        with pytest.raises(ServerError, match=f"port {port} of 127.0.0.1 cannot be used"):
            await NatsCluster(port=port).start()
    place.assert_clean()


async def test_a_cluster_replicates_and_survives_the_death_of_a_streams_leader(place):
    async with NatsCluster() as cluster:
        assert len(set(cluster.urls)) == 3
        client = await connect(cluster.urls, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
        assert len(client.servers) == 3, "no addresses but those that were given"
        stream = client.jetstream(timeout=10)
        await stream.add_stream(name="S", subjects=["s.>"], num_replicas=3)
        for number in range(20):
            await publish(stream, "s.a", number)
        leader = await cluster.leader("S")
        leader.kill()
        successor = await cluster.leader("S", timeout=60)
        assert successor is not leader
        async with asyncio.timeout(60):
            while True:
                try:
                    assert (await stream.stream_info("S")).state.messages == 20
                    break
                except (nats.errors.Error, TimeoutError):
                    await asyncio.sleep(0.1)
        await leader.restart()
        await cluster.wait_ready(60)
        assert (await cluster.leader()).running
        await client.close()
        with pytest.raises(ServerError, match=r"already started: close\(\) it first"):
            await cluster.start()
        assert all(server.running for server in cluster.servers)


async def test_a_cluster_without_a_majority_has_no_leader(place):
    async with NatsCluster() as cluster:
        for server in cluster.servers[:2]:
            server.kill()
        with pytest.raises(ServerError, match="needs a majority"):
            await cluster.wait_ready(0.5)
        with pytest.raises(ServerError, match=r"stream 'S' has no leader after 0\.1 s"):
            await cluster.leader("S", timeout=0.1)
        for server in cluster.servers[:2]:
            await server.restart()
        await cluster.wait_ready(60)


async def test_cancelling_the_start_of_a_cluster_leaves_nothing(place):
    cancelled = []
    for delay in (0, 0.02, 0.1, 0.25):
        cluster = NatsCluster()
        task = asyncio.create_task(cluster.start())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
        cancelled.append(task.cancelled())
        if not cancelled[-1]:  # it was ready by then
            await cluster.close()
    assert cancelled[0]
    place.assert_clean()
