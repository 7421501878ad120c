import asyncio
import time

import pytest
from nats_settings import settings

from common.context import deadline
from common.errors import is_retryable
from common.events.core._declarations import StreamSpec
from common.events.core._errors import (
    MessageTooLarge,
    MissingStream,
    PublishRejected,
    PublishTimeout,
    TransportClosed,
)
from common.events.core._transport import Receipt
from common.events.nats._errors import JetStreamDisabled
from common.events.nats._headers import VERSION
from common.events.nats._in_flight import judge
from common.events.nats._transport import NatsTransport
from common.testing import FaultProxy, NatsServer


async def stored(transport: NatsTransport, stream: str = "CALL") -> list[str]:
    found = await transport.browse(stream, limit=100_000)
    return [message.headers["Nats-Msg-Id"] for message in found]


def in_flight(transport: NatsTransport) -> int:
    return len(transport._pipeline._in_flight)


def free(transport: NatsTransport) -> int:
    return transport._pipeline.window._messages


# What a publish does


async def test_a_receipt_says_where_a_message_is(transport, make):
    message = make(headers={"ce-type": "größe", "Nats-Rollup": "all"})
    receipt = await transport.publish(message)
    assert receipt == Receipt(message.id, "CALL", 1)
    (found,) = await transport.browse("CALL")
    assert found.data == message.data
    own = {"Nats-Msg-Id": message.id, "Nats-Expected-Stream": "CALL"}
    assert found.headers == own | {"ce-type": "größe"}


async def test_the_same_id_is_stored_once(transport, make):
    message = make()
    first, second = await transport.publish(message), await transport.publish(message)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.sequence == second.sequence
    assert await stored(transport) == [message.id]


async def test_messages_of_one_task_keep_their_order(transport, make):
    wanted: list[list[str]] = []

    async def publish() -> None:
        messages = [make() for _ in range(50)]
        wanted.append([message.id for message in messages])
        for message in messages:
            await transport.publish(message)

    await asyncio.gather(*(publish() for _ in range(20)))
    order = {each: place for place, each in enumerate(await stored(transport))}
    assert len(order) == 1_000
    for ids in wanted:
        assert [order[each] for each in ids] == sorted(order[each] for each in ids)


async def test_more_tasks_than_the_window_holds_all_get_through(config, make):
    config = config.model_copy(update={"max_in_flight": 3, "max_in_flight_bytes": 4_000})
    async with NatsTransport(config) as transport:
        await transport.declare([StreamSpec(name="CALL", subjects=("evt.call.>",))], mode="create")
        messages = [make(data=bytes(900)) for _ in range(200)]
        receipts = await asyncio.gather(*map(transport.publish, messages))
        assert sorted(each.sequence for each in receipts) == list(range(1, 201))
        assert free(transport) == 3


# What is refused


async def test_a_subject_no_stream_takes(transport, make):
    started = time.monotonic()
    with pytest.raises(MissingStream, match=r"no stream takes evt\.other\.x"):
        await transport.publish(make(subject="evt.other.x"), timeout=60)
    assert time.monotonic() - started < 30
    assert free(transport) == transport.config.max_in_flight


async def test_a_stream_that_is_made_meanwhile_is_waited_for(transport, make, monkeypatch):
    """Nobody listens yet, but by the time it is asked, the stream is there."""
    asked = transport.api.request

    async def declare_first(operation, *args, **kwargs):
        if operation == "STREAM.NAMES":
            await transport.declare([StreamSpec(name="LATE", subjects=("late.>",))], mode="create")
        return await asked(operation, *args, **kwargs)

    monkeypatch.setattr(transport.api, "request", declare_first)
    receipt = await transport.publish(make(subject="late.x", stream="LATE"))
    assert receipt.stream == "LATE"


async def test_an_account_without_jetstream(make):
    accounts = "accounts: {A: {users: [{user: a, password: a}]}}\nno_auth_user: a"
    async with NatsServer(config=f"authorization: {{}}\n{accounts}") as server:
        with pytest.raises(JetStreamDisabled, match="enable it"):
            await NatsTransport(settings(f"nats://a:a@{server.host}:{server.port}")).open()


async def test_jetstream_that_is_switched_off_meanwhile_ends_a_publish_before_its_time(
    transport, make, monkeypatch
):
    monkeypatch.setattr(transport.api, "prefix", "$JS.nobody.API")
    with pytest.raises(JetStreamDisabled):
        await transport.publish(make(subject="evt.other.x"), timeout=60)


async def test_larger_than_the_server_takes(transport, make):
    limit = transport.connection.max_payload
    with pytest.raises(MessageTooLarge) as caught:
        await transport.publish(make(data=bytes(limit)))
    assert caught.value.limit == limit
    assert caught.value.size is not None
    assert caught.value.size > limit
    fits = make()
    headers = len(VERSION) + len(f"\r\nNats-Msg-Id: {fits.id}\r\n\r\n")
    await transport.publish(make(data=bytes(limit - headers - 1)))


async def test_larger_than_the_server_takes_by_now_harms_no_other_message(make):
    """Sent again, it would end each connection, and with it what else is on its way."""
    async with NatsServer() as server, FaultProxy(server.url) as proxy:
        config = settings(proxy.url(server.url), reconnect_max_seconds=0.2)
        async with NatsTransport(config) as transport:
            await transport.declare([StreamSpec(name="CALL", subjects=("evt.>",))], mode="create")
            proxy.refuse()
            proxy.cut()
            async with asyncio.timeout(60):
                while transport.connection.connected:
                    await asyncio.sleep(0.01)
            large = asyncio.create_task(transport.publish(make(data=bytes(600_000))))
            small = [asyncio.create_task(transport.publish(make())) for _ in range(5)]
            await asyncio.sleep(0)
            configuration = server.directory / "nats.conf"
            configuration.write_text(f"{configuration.read_text()}\nmax_payload: 100KB\n")
            server.send_signal(1)  # SIGHUP: reloads
            async with asyncio.timeout(60):
                while (await server.monitor("/varz"))["max_payload"] > 200_000:
                    await asyncio.sleep(0.05)
            proxy.heal()
            assert all(isinstance(each, Receipt) for each in await asyncio.gather(*small))
            with pytest.raises(MessageTooLarge) as caught:
                await large
            assert caught.value.size is not None
            assert caught.value.size > 600_000
            assert transport.connection.reconnects == 1
            assert free(transport) == config.max_in_flight


async def test_larger_than_the_stream_takes(transport, make):
    await transport.api.request(
        "STREAM.CREATE.SMALL", {"name": "SMALL", "subjects": ["small.>"], "max_msg_size": 100}
    )
    with pytest.raises(MessageTooLarge):
        await transport.publish(make(subject="small.x", stream="SMALL", data=bytes(1_000)))


async def test_a_full_stream_rejects_and_may_take_it_later(transport, make):
    await transport.api.request(
        "STREAM.CREATE.FULL",
        {"name": "FULL", "subjects": ["full.>"], "max_msgs": 1, "discard": "new"},
    )
    await transport.publish(make(subject="full.x", stream="FULL"))
    message = make(subject="full.x", stream="FULL")
    with pytest.raises(PublishRejected, match="full") as caught:
        await transport.publish(message)
    assert caught.value.message_id == message.id
    assert is_retryable(caught.value)
    await transport.remove("FULL", 1)
    await transport.publish(message)


async def test_another_stream_than_the_one_it_belongs_to(transport, make):
    with pytest.raises(PublishRejected, match="not stored, because it belongs to stream ORDER"):
        await transport.publish(make(stream="ORDER"))
    assert await stored(transport) == []
    await transport.publish(make())
    with pytest.raises(PublishRejected, match="not stored"):
        await transport.publish(make(stream="ORDER"))
    assert len(await stored(transport)) == 1


async def test_the_stream_is_named_until_it_has_stored_one(transport, make):
    for _ in range(3):
        await transport.publish(make())
    found = await transport.browse("CALL", limit=10)
    assert [each.headers.get("Nats-Expected-Stream") for each in found] == ["CALL", None, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": ""},
        {"subject": "evt.call.>"},
        {"subject": "evt.*"},
        {"subject": "evt..call"},
        {"subject": "evt.call x"},
        {"subject": "evt.call\r\nPUB evil 0\r\n\r\n"},
        {"subject": "evt.\ud800"},
        {"id": "\ud800"},
        {"id": ""},
        {"id": " x"},
        {"id": "x\r\nNats-Rollup: all"},
        {"headers": {"a b": "c"}},
        {"headers": {"a\r\nb": "c"}},
    ],
)
async def test_what_could_change_the_protocol_is_not_sent(transport, make, wrong):
    with pytest.raises(PublishRejected):
        await transport.publish(make(**wrong))
    assert await stored(transport) == []
    assert free(transport) == transport.config.max_in_flight


async def test_a_subject_that_permissions_forbid(make):
    allowed = '{publish: ["$JS.>", "evt.a"]}'
    user = f"authorization: {{users: [{{user: u, password: p, permissions: {allowed}}}]}}"
    async with NatsServer(config=user) as server:
        url = f"nats://u:p@{server.host}:{server.port}"
        async with NatsTransport(settings(url)) as transport:
            spec = StreamSpec(name="E", subjects=("evt.>",))
            await transport.declare([spec], mode="create")
            with pytest.raises(PublishRejected, match="permissions forbid"):
                await transport.publish(make(subject="evt.Other", stream="E"), timeout=60)
            await transport.publish(make(subject="evt.a", stream="E"))


async def test_who_may_not_ask_for_streams_publishes_again_while_there_is_no_leader(make):
    denied = '{publish: {deny: ["$JS.API.STREAM.NAMES"]}}'
    user = f"authorization: {{users: [{{user: u, password: p, permissions: {denied}}}]}}"
    async with (
        NatsServer(config=user) as server,
        NatsTransport(settings(f"nats://u:p@{server.host}:{server.port}")) as transport,
    ):
        late = asyncio.create_task(transport.publish(make(subject="late.x", stream="LATE")))
        await asyncio.sleep(0)
        (entry,) = transport._pipeline._in_flight.values()
        async with asyncio.timeout(60):
            while not entry.unanswered or transport._pipeline._asking:
                await asyncio.sleep(0.01)
        assert not late.done()
        late_stream = {"name": "LATE", "subjects": ["late.>"]}
        await transport.api.request("STREAM.CREATE.LATE", late_stream)
        assert (await late).stream == "LATE"


# Answers


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"OK", b"[]", b"null", b"{}", b'{"stream":"CALL"}', b'{"stream":"","seq":1}'),
        *(b'{"stream":"CALL","seq":0}', b'{"stream":"CALL","seq":"1"}', b"\xff\xfe"),
        *(b'{"stream":"CALL","seq":true}', b'{"stream":5,"seq":1}', b'{"seq":1.5,"stream":"C"}'),
    ],
)
def test_an_answer_that_is_no_acknowledgement_is_none(make, data):
    assert isinstance(judge(make(), data), str)


@pytest.mark.parametrize("answered", [b'{"error":null}', b'{"error":{"code":"x"}}', b'{"error":5}'])
def test_an_error_that_makes_no_sense_is_still_one(make, answered):
    assert isinstance(judge(make(), answered), Exception)


async def test_a_service_that_answers_before_the_stream_does_not_forge_a_receipt(transport, make):
    def answer(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        transport.connection.publish(reply.decode(), b'{"status": "received"}')

    await transport.connection.subscribe("evt.call.>", answer)
    receipts = await transport.publish_many([make() for _ in range(100)])
    assert [each.sequence for each in receipts] == list(range(1, 101))


async def test_a_service_that_answers_in_place_of_a_stream_is_named(transport, make):
    def answer(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        transport.connection.publish(reply.decode(), b"thanks")

    await transport.connection.subscribe("other.x", answer)
    with pytest.raises(PublishTimeout, match=r"does a service reply on other\.x"):
        await transport.publish(make(subject="other.x", stream=""), timeout=0.5)


# Time


@pytest.mark.parametrize("seconds", [0, -1])
async def test_no_time_left(transport, make, seconds):
    with pytest.raises(PublishTimeout):
        await transport.publish(make(), timeout=seconds)
    assert await stored(transport) == []


async def test_the_deadline_of_the_context_counts(make):
    async with NatsServer() as server, NatsTransport(settings(server.url)) as transport:
        server.pause()
        started = time.monotonic()
        with deadline(0.3), pytest.raises(PublishTimeout):
            await transport.publish(make(), timeout=60)
        assert time.monotonic() - started < 20
        server.resume()


async def test_waiting_for_a_place_ends_in_time_too(make):
    async with NatsServer() as server:
        config = settings(server.url, max_in_flight=1, timeout_seconds=60)
        async with NatsTransport(config) as transport:
            server.pause()
            first = asyncio.create_task(transport.publish(make(), timeout=1.5))
            await asyncio.sleep(0)
            with pytest.raises(PublishTimeout, match="1 messages are on their way"):
                await transport.publish(make(), timeout=0.2)
            with pytest.raises(PublishTimeout, match="no acknowledgement"):
                await first
            assert free(transport) == 1
            server.resume()


# Cancelling and closing


async def test_cancelling_at_every_await_leaks_nothing(config, make):
    """Stop a publish after every number of turns of the loop it can take."""
    config = config.model_copy(update={"max_in_flight": 2})
    async with NatsTransport(config) as transport:
        await transport.declare([StreamSpec(name="CALL", subjects=("evt.call.>",))], mode="create")
        for turns in range(12):
            tasks = [asyncio.create_task(transport.publish(make())) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, Receipt | asyncio.CancelledError) for each in done)
            assert (in_flight(transport), free(transport)) == (0, 2)
        await transport.publish(make())


async def test_a_cancelled_publish_is_cancelled_and_nothing_else(transport, make):
    task = asyncio.create_task(transport.publish(make(), timeout=60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_closing_gives_every_publish_its_result(make):
    async with NatsServer() as server:
        config = settings(server.url, max_in_flight=10, timeout_seconds=60)
        transport = NatsTransport(config)
        await transport.open()
        server.pause()
        batch = asyncio.create_task(  # noqa: RUF006 - awaited below
            transport.publish_many([make() for _ in range(20)])
        )
        alone = [asyncio.create_task(transport.publish(make())) for _ in range(20)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(15):
            await transport.close()
            results = await batch
            done = await asyncio.gather(*alone, return_exceptions=True)
        assert all(isinstance(each, TransportClosed) for each in (*done, *results))
        assert (len(results), in_flight(transport), free(transport)) == (20, 0, 10)
        await transport.close()
        server.resume()
    with pytest.raises(TransportClosed):
        await transport.publish(make())
    with pytest.raises(TransportClosed):
        await transport.publish_many([make()])


async def test_nothing_is_sent_again_when_its_id_may_be_forgotten(make):
    """A caller may wait longer than the duplicate window was checked for."""
    async with NatsServer() as server:
        config = settings(server.url, timeout_seconds=2, ack_timeout_seconds=0.2)
        async with NatsTransport(config) as transport:
            server.pause()
            task = asyncio.create_task(transport.publish(make(), timeout=5))
            await asyncio.sleep(0)
            (entry,) = transport._pipeline._in_flight.values()
            async with asyncio.timeout(60):
                while time.monotonic() < entry.resend_until:
                    await asyncio.sleep(0.05)
            sent = entry.attempts
            assert 1 < sent < 6
            with pytest.raises(PublishTimeout, match=f"sent {sent} times"):
                await task
            server.resume()
