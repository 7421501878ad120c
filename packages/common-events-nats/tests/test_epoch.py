from pathlib import Path
from typing import Any

import pytest
from nats_consuming import connected, eventually, nothing, receive, settled, take, until

from common.events.nats._epoch import Epoch
from common.testing import FaultProxy, NatsCluster, NatsServer, reserve_port

ORDERED: dict[str, Any] = {"ordered": True, "ack_wait": 30.0, "max_outstanding": 8}


def test_another_start_of_the_server_is_another_epoch():
    epoch = Epoch("A1")
    epoch.served_by("A1")
    assert epoch.number == 0
    epoch.served_by("A2")
    assert epoch.number == 1


def test_another_leader_is_another_epoch_but_not_the_first_nor_none():
    epoch = Epoch("A1")
    for leader in (None, "a", "", "a"):  # none: an election
        epoch.led_by(leader, "10:00")
    assert epoch.number == 0
    epoch.led_by("b", "10:00")
    assert epoch.number == 1


def test_a_leader_that_crashed_and_leads_again_is_another_epoch():
    epoch = Epoch("A1")
    for since in ("10:00", "10:00", "10:01"):
        epoch.led_by("a", since)
    assert epoch.number == 1


def test_a_leader_that_does_not_say_since_when_may_be_another_each_time():
    epoch = Epoch("A1")
    for leader in ("a", "a", None, "a"):
        epoch.led_by(leader)
    assert epoch.number == 2


def rises(consumer, above: int = 0):
    """Wait until the broker may have forgotten what it gave to a consumer."""

    async def higher() -> bool:
        return consumer.pull.epoch.number > above

    return until(higher)


@pytest.mark.parametrize(
    ("replicas", "count"),
    [
        pytest.param(3, 8, id="no room to ask for more"),
        pytest.param(3, 4, id="asking for more", marks=pytest.mark.chaos),
        pytest.param(1, 8, id="one replica, no room", marks=pytest.mark.chaos),
        pytest.param(1, 4, id="one replica"),
    ],
)
async def test_what_is_in_hand_is_sent_again_when_the_leader_was_started_anew(replicas, count):
    """The connection, to another member of the cluster, knows nothing of it."""
    async with NatsCluster(3) as cluster, connected(cluster.urls) as other:
        await other.stream(num_replicas=replicas)
        info = await eventually(lambda: other.api.request("STREAM.INFO.S"))
        first = await other.consume(**ORDERED)
        await first.close()
        info = (await other.info())["cluster"] if replicas > 1 else info["cluster"]
        leader = next(each for each in cluster.servers if each.name == info["leader"])
        elsewhere = next(each for each in cluster.servers if each is not leader)
        async with connected(elsewhere.url) as nats:
            consumer = await nats.consume(**ORDERED)
            await other.publish_many(count)
            held = await receive(consumer, count)
            leader.kill()
            await leader.restart()
            await rises(consumer)
            assert nats.connection.reconnects == 0
            for delivery in held:
                await delivery.ack()
            again = await take(consumer, count)
            assert [each.sequence for each in again] == list(range(1, count + 1))
            await settled(nats)


async def test_what_is_in_hand_is_sent_again_when_the_server_behind_a_leaf_node_was_killed(
    tmp_path: Path,
):
    with reserve_port() as port:
        hub = NatsServer(
            password="pw",
            config=f'jetstream {{ domain: hub, store_dir: "{tmp_path}" }}\nleafnodes {{ '
            f'authorization {{ user: common, password: pw }}, listen: "127.0.0.1:{port}" }}',
        )
        leaf = NatsServer(
            password="pw",
            jetstream=False,
            config='leafnodes { reconnect: "1s", remotes: [ '
            f'{{ url: "nats://common:pw@127.0.0.1:{port}" }} ] }}',
        )
        async with hub, leaf, connected(leaf.url, domain="hub") as nats:
            await nats.stream()
            consumer = await nats.consume(**ORDERED)
            await nats.publish_many(3)
            held = await receive(consumer, 3)
            hub.kill()
            await hub.restart()
            await rises(consumer)
            assert nats.connection.reconnects == 0
            for delivery in held:
                await delivery.ack()
            assert [each.sequence for each in await take(consumer, 3)] == [1, 2, 3]


async def test_acknowledgements_that_may_not_have_come_are_taken_back_by_an_ordered_consumer():
    async with (
        NatsServer() as server,
        FaultProxy(server.url) as proxy,
        connected(proxy.url(server.url)) as nats,
    ):
        await nats.stream()
        consumer = await nats.consume(**ORDERED)
        await nats.publish_many(3)
        held = await receive(consumer, 3)
        proxy.drop(direction="upstream")
        for delivery in held:
            await delivery.ack()
        await server.restart()
        proxy.heal()
        again = await take(consumer, 3)
        assert [(each.sequence, each.attempt) for each in again] == [(1, 2), (2, 2), (3, 2)]
        await settled(nats)


async def test_a_shared_consumer_settles_what_it_got_from_a_server_before_it_was_restarted():
    async with NatsServer() as server, connected(server.url) as nats:
        await nats.stream()
        consumer = await nats.consume(ack_wait=30.0)
        await nats.publish_many(3)
        held = await receive(consumer, 3)
        await server.restart()
        await rises(consumer)
        for delivery in held:
            await delivery.ack()
        await settled(nats)
        await nothing(consumer, 0.3)


async def test_nothing_is_handed_back_to_a_consumer_that_was_made_anew():
    async with NatsCluster(3) as cluster, connected(cluster.urls) as nats:
        await nats.stream(num_replicas=3)
        consumer = await nats.consume(**ORDERED)
        await nats.publish_many(8)
        await take(consumer, 8)
        pull, written = consumer.pull, []
        write = pull._settlements._write

        def note(command: bytes) -> bool:
            written.append(command)
            return write(command)

        pull._settlements._write = note
        generation = pull.generation
        await nats.api.request("CONSUMER.DELETE.S.d")

        async def made_anew() -> bool:
            return pull.generation > generation

        await until(made_anew)
        assert pull.epoch.number == 1  # its election was another one
        assert written == []
