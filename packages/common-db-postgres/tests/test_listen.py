"""Notifications arrive when their transaction commits, and gaps are told."""

import asyncio

import pytest
import sqlalchemy as sa
from postgres_entities import config_of

from common.context import Operation, observe
from common.db.core import SessionStateError
from common.db.postgres import Gap, Listener, Notification, PostgresDatabase, notify
from common.errors import ValidationError
from common.testing import FaultProxy


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Operation] = []

    def on_start(self, op: Operation, /) -> None:
        pass

    def on_end(self, op: Operation, /) -> None:
        self.seen.append(op)


async def send(database: PostgresDatabase, *payloads: str, channel: str = "calls") -> None:
    async with database.transaction() as unit:
        for payload in payloads:
            await notify(unit, channel, payload)


async def hear(database: PostgresDatabase, listener: Listener) -> list[object]:
    await send(database, "a")
    return await take(listener, 1)


async def take(listener: Listener, count: int) -> list[object]:
    async with asyncio.timeout(30):
        return [await anext(listener) for _ in range(count)]


def payloads(events: list[object]) -> list[str]:
    return [each.payload for each in events if isinstance(each, Notification)]


async def test_what_a_transaction_sends_arrives_in_order_when_it_commits(
    database: PostgresDatabase,
):
    async with database.listen("calls", 'with "quotes"') as listener:

        async def failing() -> None:
            async with database.transaction() as unit:
                await notify(unit, "calls", "never")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing()
        await send(database, "a", "b")
        await send(database, "ü", channel='with "quotes"')
        events = await take(listener, 3)
        assert payloads(events) == ["a", "b", "ü"]
        assert isinstance(events[2], Notification)
        assert events[2].channel == 'with "quotes"'


async def test_the_limit_of_a_payload_is_the_servers(database: PostgresDatabase):
    async with database.listen("calls") as listener:
        await send(database, "ü" * 3_999)
        assert len(payloads(await take(listener, 1))[0]) == 3_999
        for wrong in ("ü" * 4_000, "a\0b", "\ud800"):
            with pytest.raises(ValidationError, match="7999"):
                await send(database, wrong)
        with pytest.raises(ValidationError):
            await send(database, "a", channel="c" * 64)


async def test_a_broken_connection_is_made_anew_and_the_gap_told(database: PostgresDatabase):
    statement = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    ).columns(sa.column("done", sa.Boolean))
    async with database.listen("calls") as listener:
        await send(database, "a")
        assert payloads(await take(listener, 1)) == ["a"]
        assert len(await database.select(statement)) == 1
        assert await take(listener, 1) == [Gap("reconnected")]
        await send(database, "b")
        assert payloads(await take(listener, 1)) == ["b"]


async def test_it_comes_back_when_the_server_was_unreachable(
    database: PostgresDatabase, postgres_url: str
):
    async with FaultProxy(postgres_url) as proxy:
        config = config_of(proxy.url(postgres_url))
        recorder = Recorder()
        with observe(recorder):
            async with Listener(config, ["calls"]) as listener:
                proxy.cut()
                proxy.refuse()
                async with asyncio.timeout(30):  # nobody waits for it: it must report by itself
                    while not any(each.error_code for each in recorder.seen):
                        await asyncio.sleep(0.005)
                proxy.heal()
                assert await take(listener, 1) == [Gap("reconnected")]
                await send(database, "a")
                assert payloads(await take(listener, 1)) == ["a"]
        found = [each for each in recorder.seen if each.name == "listen"]
        assert [found[0].outcome, found[1].outcome, found[-1].outcome] == ["ok", "error", "ok"]
        assert found[1].error_code == "DB_CONNECTION_LOST"


async def test_a_connection_that_fell_silent_is_noticed(
    database: PostgresDatabase, postgres_url: str
):
    async with FaultProxy(postgres_url) as proxy:
        config = config_of(proxy.url(postgres_url))
        async with Listener(config, ["calls"], keepalive_seconds=0.5) as listener:
            proxy.drop()
            async with asyncio.timeout(30):
                while proxy.accepted < 2:
                    await asyncio.sleep(0.01)
            proxy.heal()
            assert await take(listener, 1) == [Gap("reconnected")]
            async with asyncio.timeout(30):
                while not payloads(await hear(database, listener)):
                    pass  # a machine too busy for the keepalive costs one more connection


async def test_a_consumer_that_is_too_slow_is_told_of_the_gap(database: PostgresDatabase):
    async with database.listen("calls", queue_size=3) as listener:
        await send(database, *"abcdef")
        await wait_for_gap(listener)
        assert payloads(await take(listener, 3)) == ["a", "b", "c"]
        await send(database, "g")
        events = await take(listener, 2)
        assert events[0] == Gap("overflow")
        assert payloads(events) == ["g"]


async def wait_for_gap(listener: Listener) -> None:
    async with asyncio.timeout(30):
        while listener._missed is None:
            await asyncio.sleep(0.005)


async def test_closing_ends_the_iteration(database: PostgresDatabase):
    listener = database.listen("calls")
    async with listener:
        reading = asyncio.create_task(take(listener, 1))
        await asyncio.sleep(0)
        await listener.close()
        with pytest.raises((StopAsyncIteration, RuntimeError)):
            await reading
    assert [event async for event in listener] == []
    with pytest.raises(SessionStateError):
        await listener.__aenter__()


@pytest.mark.parametrize(
    ("channels", "options"), [([], {}), (["c" * 64], {}), (["c"], {"queue_size": 0})]
)
def test_wrong_channels_and_sizes_are_refused(channels: list[str], options: dict[str, int]):
    with pytest.raises(ValidationError):
        Listener(config_of("postgresql://a:b@c/d"), channels, **options)
