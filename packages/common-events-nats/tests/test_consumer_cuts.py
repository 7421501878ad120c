"""Connections that come and go: what is asked for, when, and what is said."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats_consuming import Nats, connected, take, until

from common.events.core._errors import TransportClosed
from common.events.nats import _renewal
from common.events.nats._errors import NatsPermissionError
from common.testing import FaultProxy, NatsServer


@pytest.fixture
async def asked(nats: Nats) -> list[str]:
    """What consumers ask the server for."""
    asked: list[str] = []

    def note(subject: bytes, *_: object) -> None:
        asked.append("messages" if b".MSG.NEXT." in subject else "info")

    await nats.connection.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", note)
    await nats.connection.subscribe("$JS.API.CONSUMER.INFO.>", note)
    return asked


def both(asked: list[str]) -> Callable[[], Awaitable[bool]]:
    async def found() -> bool:
        return len(set(asked)) == 2

    return found


def down(nats: Nats) -> Callable[[], Awaitable[bool]]:
    async def found() -> bool:
        return not nats.connection.connected

    return found


@pytest.mark.parametrize("ordered", [False, True])
async def test_nothing_is_asked_for_before_the_consumer_is_looked_up(
    nats: Nats, nats_url: str, asked: list[str], ordered: bool
):
    """It may be another one by then, and the inbox of before is about to close."""
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        consumer = await away.consume(ordered=ordered)
        await away.connection.flush()
        await nats.connection.flush()
        asked.clear()
        proxy.cut()
        await until(both(asked))
        assert asked[:2] == ["info", "messages"]
        await nats.publish("s.a")
        await take(consumer, 1)


async def test_what_was_looked_up_before_a_cut_is_looked_up_again(
    nats: Nats, nats_url: str, asked: list[str], monkeypatch
):
    """The answer and the end of the connection may come in one read."""
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        consumer = await away.consume(max_outstanding=1)
        look_up, looked_up = consumer.pull._ensure, 0

        async def cut_off():
            nonlocal looked_up
            looked_up += 1
            info = await look_up()
            if looked_up == 1:
                await away.connection.nc._process_op_err(OSError("reset"))
                await nats.connection.flush()
                asked.clear()
            return info

        monkeypatch.setattr(consumer.pull, "_ensure", cut_off)
        away.connection.on_up(lambda: consumer.pull.widen(8))
        consumer.pull.doubt()
        await until(both(asked))
        assert asked[:2] == ["info", "messages"]
        await nats.publish("s.a")
        await take(consumer, 1)


async def test_after_each_of_many_cuts_it_is_looked_up_without_a_pause(
    nats: Nats, nats_url: str, monkeypatch
):
    """Pauses grow while looking up fails; connecting has its own."""
    pauses: list[int] = []

    def pause(failures: int) -> float:
        pauses.append(failures)
        return 0.1

    monkeypatch.setattr(_renewal, "_pause", pause)
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        consumer = await away.consume()
        for turn in range(1, 6):
            seen = consumer.pull.renewals

            async def renewed(turn: int = turn, seen: int = seen) -> bool:
                connection = away.connection
                return connection.reconnects >= turn and consumer.pull.renewals > seen

            proxy.cut()
            await until(renewed)
        await nats.publish("s.a")
        await take(consumer, 1)
    assert not pauses


async def test_a_server_that_by_now_forbids_to_hear_its_answers_is_said():
    """And neither waited for nor asked for ever, which would look like no messages."""

    def users(subjects: str) -> str:
        return f'[{{user: u, password: p, permissions: {{subscribe: ["{subjects}"]}}}}]'

    async with NatsServer(config=f"authorization: {{users: {users('>')}}}") as server:
        url = f"nats://u:p@{server.host}:{server.port}"
        async with FaultProxy(url) as proxy, connected(proxy.url(url)) as nats:
            await nats.stream()
            consumer = await nats.consume()
            await nats.connection.flush()
            proxy.refuse()
            proxy.cut()
            await until(down(nats))
            loaded = (await server.monitor("/varz"))["config_load_time"]
            configuration = server.directory / "nats.conf"
            text = configuration.read_text()
            assert users(">") in text
            configuration.write_text(text.replace(users(">"), users("mine.>")))
            server.send_signal(1)  # SIGHUP: reloads

            async def reloaded() -> bool:
                return (await server.monitor("/varz"))["config_load_time"] != loaded

            await until(reloaded)
            proxy.heal()
            with pytest.raises(NatsPermissionError, match=r"subscribe to _INBOX\.>"):
                await asyncio.wait_for(consumer.receive(), 60)
            with pytest.raises(NatsPermissionError, match=r"subscribe to _INBOX\.>"):
                await nats.connection.request("x", timeout=60)


async def test_closing_the_connection_while_it_is_cut_off_ends_receiving(nats: Nats, nats_url: str):
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        consumer = await away.consume()
        receiving = asyncio.create_task(consumer.receive())
        proxy.refuse()
        proxy.cut()
        await until(down(away))
        await away.connection.close()
        with pytest.raises(TransportClosed):
            await asyncio.wait_for(receiving, 60)


async def test_a_consumer_that_was_not_told_of_a_new_connection_finds_out(
    nats: Nats, nats_url: str
):
    async with FaultProxy(nats_url) as proxy, connected(proxy.url(nats_url)) as away:
        consumer = await away.consume()
        away.connection._on_up.clear()
        proxy.refuse()
        proxy.cut()
        await until(down(away))
        await nats.publish("s.a")
        proxy.heal()
        await take(consumer, 1)
