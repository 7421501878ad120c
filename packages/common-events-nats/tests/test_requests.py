import asyncio

import pytest
from nats_consuming import Nats, connected

from common.context import bind, current, deadline, new_trace, remaining
from common.errors import (
    AppError,
    ConflictError,
    NotFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
    UpstreamServiceError,
    ValidationError,
)
from common.events.core._errors import BrokerUnavailable
from common.events.nats._errors import NatsPermissionError, NoResponders
from common.events.nats._requests import Request, Response, request, serve
from common.testing import NatsServer


async def test_a_request_is_answered(nats: Nats):
    async def handler(asked: Request):
        return Response(asked.data[::-1], {"Seen": asked.headers["Color"], "On": asked.subject})

    async with await serve(nats.connection, "svc.*", handler):
        answer = await request(nats.connection, "svc.rev", b"abc", headers={"Color": "red"})
    assert answer.data == b"cba"
    assert answer.headers["Seen"] == "red"
    assert answer.headers["On"] == "svc.rev"


async def test_the_handler_runs_in_the_callers_context_and_no_longer_than_it_waits(nats: Nats):
    seen = {}

    async def handler(_: Request):
        seen["context"] = current()
        seen["left"] = remaining()
        return b""

    trace = new_trace(sampled=True)
    async with await serve(nats.connection, "svc", handler):
        with bind(request_id="r-1", correlation_id="c-1", trace=trace):
            async with deadline(30):
                await request(nats.connection, "svc", timeout=60)
    assert seen["context"].request_id == "r-1"
    assert seen["context"].correlation_id == "c-1"
    assert seen["context"].trace.trace_id == trace.trace_id
    assert 0 < seen["left"] <= 30


async def test_a_handler_that_takes_too_long_is_cancelled(nats: Nats):
    cancelled = asyncio.Event()

    async def handler(_: Request):
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()
        return b""

    async with await serve(nats.connection, "svc", handler):
        with pytest.raises(RequestTimeoutError):
            await request(nats.connection, "svc", timeout=0.3)
        async with asyncio.timeout(60):
            await cancelled.wait()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (NotFoundError("no such order: 4711"), NotFoundError),
        (ConflictError("taken"), ConflictError),
        (ValidationError("wrong", field="x"), ValidationError),
        (RuntimeError("password=secret"), UpstreamServiceError),
    ],
)
async def test_errors_of_the_handler_reach_the_caller_as_errors(nats: Nats, raised, expected):
    async def handler(_: Request):
        raise raised

    async with await serve(nats.connection, "svc", handler):
        with pytest.raises(expected) as caught:
            await request(nats.connection, "svc")
        raw = await nats.connection.request("svc", timeout=5)
    assert isinstance(caught.value, AppError)
    assert b"secret" not in raw.data
    assert "Nats-Service-Error-Code" in raw.headers


@pytest.mark.parametrize("answer", [None, "text", Response(b"", {"a b": "c"}), Response("x")])  # type: ignore[arg-type]
async def test_an_answer_that_cannot_be_sent_is_an_error_and_not_silence(nats: Nats, answer):
    async def handler(_: Request):
        return answer

    async with await serve(nats.connection, "svc", handler):
        with pytest.raises(UpstreamServiceError):
            await request(nats.connection, "svc", timeout=60)


async def test_whoever_waits_for_a_service_that_stops_is_told(nats: Nats):
    started = asyncio.Event()

    async def handler(_: Request):
        started.set()
        await asyncio.Event().wait()
        return b""

    service = await serve(nats.connection, "svc", handler)
    call = asyncio.create_task(request(nats.connection, "svc", timeout=60))
    await started.wait()
    await service.close(drain=0)
    async with asyncio.timeout(30):
        with pytest.raises(ServiceUnavailableError):
            await call


async def test_a_subject_that_permissions_forbid_to_serve_is_said():
    users = (
        "authorization: {users: [{user: u, password: p, "
        'permissions: {subscribe: {deny: ["svc.>"]}}}]}'
    )
    async with (
        NatsServer(config=users) as server,
        connected(f"nats://u:p@{server.host}:{server.port}") as nats,
    ):

        async def handler(_: Request):
            return b""

        with pytest.raises(NatsPermissionError, match=r"subscribe to svc\.A"):
            await serve(nats.connection, "svc.A", handler, queue="q")
        assert len(nats.connection.nc.sinks) == 1


@pytest.mark.parametrize("queue", ["a b", "a\r\nPUB evil 0\r\n\r\n"])
async def test_a_queue_that_would_break_the_protocol_is_refused(nats: Nats, queue):
    async def handler(_: Request):
        return b""

    with pytest.raises(ValidationError):
        await serve(nats.connection, "svc", handler, queue=queue)


async def test_a_header_that_cannot_be_is_refused(nats: Nats):
    with pytest.raises(ValidationError, match="name for a header"):
        await request(nats.connection, "svc", headers={"a b": "c"})


async def test_nobody_there_is_said_at_once(nats: Nats):
    with pytest.raises(NoResponders):
        await request(nats.connection, "nobody", timeout=30)


async def test_no_time_left_is_said_without_asking(nats: Nats):
    with deadline(0.001):
        await asyncio.sleep(0.01)
        with pytest.raises(RequestTimeoutError, match="no time"):
            await request(nats.connection, "svc")


async def test_too_many_at_once_are_turned_away(nats: Nats):
    go = asyncio.Event()

    async def handler(_: Request):
        await go.wait()
        return b"done"

    async with await serve(nats.connection, "svc", handler, concurrency=2):
        calls = [
            asyncio.create_task(request(nats.connection, "svc", timeout=100)) for _ in range(5)
        ]
        done, waiting = set(), set(calls)
        while len(waiting) > 2:
            done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.01)
        assert len(waiting) == 2
        assert all(isinstance(call.exception(), ServiceUnavailableError) for call in done)
        go.set()
        assert [(await call).data for call in waiting] == [b"done", b"done"]


async def test_closing_lets_requests_in_hand_finish_and_takes_no_more(nats: Nats):
    started = asyncio.Event()

    async def handler(_: Request):
        started.set()
        await asyncio.sleep(0.2)
        return b"done"

    service = await serve(nats.connection, "svc", handler)
    call = asyncio.create_task(request(nats.connection, "svc", timeout=60))
    await started.wait()
    await service.close(drain=60)
    await service.close()
    assert (await call).data == b"done"
    with pytest.raises(NoResponders):
        await request(nats.connection, "svc")


async def test_services_of_a_queue_group_share(nats: Nats, nats_url):
    seen = [0, 0]

    def handler(number: int):
        async def handle(_: Request):
            seen[number] += 1
            return b""

        return handle

    async with (
        connected(nats_url) as other,
        await serve(nats.connection, "svc", handler(0), queue="q"),
        await serve(other.connection, "svc", handler(1), queue="q"),
    ):
        await other.connection.flush()
        await asyncio.gather(*(request(nats.connection, "svc") for _ in range(60)))
    assert sum(seen) == 60
    assert min(seen) > 0


async def test_an_answer_too_large_is_an_error_and_not_a_broken_connection(nats: Nats):
    async def handler(_: Request):
        return bytes(2 << 20)

    async with await serve(nats.connection, "svc", handler):
        with pytest.raises(UpstreamServiceError):
            await request(nats.connection, "svc")
        assert nats.connection.reconnects == 0


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "a..b", "a.*", "a.>", "x" * 256])
async def test_a_subject_that_breaks_the_protocol_is_refused(nats: Nats, subject):
    with pytest.raises(ValidationError):
        await request(nats.connection, subject)


@pytest.mark.parametrize("told", ["nan", "-1", "inf", "1e999", "soon", "0"])
async def test_a_senseless_timeout_of_the_caller_is_ignored(nats: Nats, told):
    left = []

    async def handler(_: Request):
        left.append(remaining())
        return b""

    async with await serve(nats.connection, "svc", handler, timeout=7):
        headers = f"NATS/1.0\r\nRequest-Timeout: {told}\r\n\r\n".encode()
        await nats.connection.request("svc", timeout=5, headers=headers)
    assert 0 < left[0] <= 7


async def test_without_a_server_a_request_ends_in_time():
    async with NatsServer() as server, connected(server.url) as nats:
        server.kill()
        with pytest.raises((BrokerUnavailable, RequestTimeoutError)):
            await request(nats.connection, "svc", timeout=0.3)
