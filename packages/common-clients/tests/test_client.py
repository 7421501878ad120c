"""The HTTP client against a real server on loopback."""

import asyncio
import pickle
import time
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import BaseModel

from common.clients import (
    REQUEST_TIMEOUT_HEADER,
    Backoff,
    Breaker,
    BulkheadFullError,
    ClientClosedError,
    ClientConfig,
    Hedge,
    Limits,
    Retry,
    RetryBudget,
    ServiceClient,
    ServiceKey,
    ServiceToken,
    problem_of,
)
from common.context import (
    Context,
    DeadlineExceeded,
    bind,
    check_deadline,
    deadline,
    new_trace,
    observe,
    parse_trace,
)
from common.errors import (
    AppError,
    CircuitOpenError,
    ForbiddenError,
    NotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    ServiceUnavailableError,
    UpstreamServiceError,
)


class Account(BaseModel):
    id: int
    name: str = ""


def scripted(*replies):
    """Answer with these in turn, the last one again and again."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


async def forever(writer):
    await asyncio.Event().wait()


class Observer:
    def __init__(self):
        self.ended = []

    def on_start(self, op):
        pass

    def on_end(self, op):
        self.ended.append((op.name, op.outcome, op.error_code, dict(op.attributes)))


# What is sent and returned


async def test_a_call_from_end_to_end(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(201, {"id": 7}, etag='"v1"')
    async with connect() as client:
        response = await client.post(
            "/accounts/{id}/notes",
            path={"id": "a/b c"},
            params={"tag": ["x", "y&z"], "deep": True, "none": None},
            json={"text": "für"},
            headers={"X-Extra": "1"},
        )
    assert (response.status, response.json(), response.headers["ETag"]) == (201, {"id": 7}, '"v1"')
    request = upstream.requests[0]
    assert request.method == "POST"
    assert request.target == "/accounts/a%2Fb%20c/notes?tag=x&tag=y%26z&deep=true"
    assert request.body == '{"text":"für"}'.encode()
    assert request.header("Content-Type") == "application/json"
    assert request.header("X-Extra") == "1"
    assert request.header("Content-Length") == str(len(request.body))


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("GET", {"status": 304, "content_length": 10**12, "content_encoding": "br"}),
        ("GET", {"status": 204, "content_encoding": "gzip"}),
        ("GET", {"status": 200, "content_encoding": "zstd"}),
        ("HEAD", {"status": 200, "content_length": 10**12, "content_encoding": "br"}),
        ("HEAD", {"status": 404, "content_length": 7}),
    ],
    ids=str,
)
async def test_an_answer_without_a_body_keeps_its_connection_whatever_it_says_of_one(
    upstream, connect, reply_with, method, reply
):
    upstream.reply = lambda request: reply_with(**reply)
    async with connect() as client:
        for _ in range(3):
            with suppress(NotFoundError):
                assert (await client.request(method, "/a")).content == b""
    assert (len(upstream.requests), upstream.accepted) == (3, 1)


@pytest.mark.parametrize("first", ["GET", "HEAD"])
async def test_what_comes_behind_an_answer_is_not_taken_for_the_next_one(
    upstream, connect, reply_with, first
):
    body = b"" if first == "HEAD" else b"mine"
    length = {"content_length": 5000} if first == "HEAD" else {}
    upstream.reply = scripted(
        reply_with(200, body, **length) + reply_with(200, b"of another"), reply_with(200, b"mine")
    )
    async with connect() as client:
        await client.request(first, "/a")
        assert (await client.get("/b")).content == b"mine"
    assert upstream.accepted == 2


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete"])
async def test_every_verb_sends_its_method_and_decodes(upstream, connect, reply_with, verb):
    upstream.reply = lambda request: reply_with(200, {"id": 7, "name": "a"})
    async with connect() as client:
        assert (await getattr(client, verb)("/a")).json()["id"] == 7
        assert await getattr(client, verb)("/a", into=Account) == Account(id=7, name="a")
    assert {request.method for request in upstream.requests} == {verb.upper()}


async def test_lists_of_models_decode_too(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(200, [{"id": 1}, {"id": 2}])
    async with connect() as client:
        assert await client.get("/a", into=list[Account]) == [Account(id=1), Account(id=2)]


async def test_the_base_urls_path_stays_in_front(upstream, connect):
    async with connect(upstream.url + "/api/v1/") as client:
        await client.get("/a")
    assert upstream.requests[0].target == "/api/v1/a"


async def test_a_body_can_be_a_model_text_bytes_or_an_iterator(upstream, connect):
    async def chunks():
        yield b"one"
        yield b"two"

    async with connect() as client:
        await client.put("/a", json=Account(id=1, name="b"))
        await client.put("/a", content="text")
        await client.put("/a", content=b"bytes", headers={"content-type": "image/png"})
        await client.put("/a", content=chunks())
    assert [request.body for request in upstream.requests] == [
        b'{"id":1,"name":"b"}',
        b"text",
        b"bytes",
        b"onetwo",
    ]
    types = [request.header("content-type") for request in upstream.requests]
    assert types == [
        "application/json",
        "text/plain; charset=utf-8",
        "image/png",
        "application/octet-stream",
    ]


async def test_models_may_stand_anywhere_in_a_body(upstream, connect):
    async with connect() as client:
        await client.put("/a", json={"all": [Account(id=1), Account(id=2, name="b")]})
        with pytest.raises(TypeError, match=r"json\[0\] is object: give"):
            await client.put("/a", json=[object()])
        with pytest.raises(ValueError):
            await client.put("/a", json=float("nan"))
    assert [request.body for request in upstream.requests] == [
        b'{"all":[{"id":1,"name":""},{"id":2,"name":"b"}]}'
    ]


async def test_headers_are_read_the_same_way_in_streams(upstream, connect, reply_with):
    upstream.reply = lambda request: (
        b"HTTP/1.1 200 OK\r\nX-Name: f\xc3\xbcr\r\ncontent-length: 0\r\n\r\n"
    )
    async with connect() as client:
        whole = (await client.get("/a")).headers
        async with client.stream("GET", "/a") as response:
            assert dict(response.headers) == dict(whole)


async def test_a_head_request_has_no_body_whatever_its_length_says(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(200, b"", content_length=10**12)
    async with connect() as client:
        response = await client.request("HEAD", "/export")
    assert (response.content, response.headers["content-length"]) == (b"", str(10**12))


async def test_not_modified_is_an_answer(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(304, b"", etag='"v1"')
    async with connect() as client:
        response = await client.get("/a", headers={"If-None-Match": '"v1"'})
    assert response.status == 304


# Credentials


async def test_a_service_key_and_a_token_are_sent_in_their_headers(upstream, connect):
    fresh = iter(["one", "two"])

    async def token():
        return next(fresh)

    async with connect(auth=ServiceKey("orders.secret")) as client:
        await client.get("/a")
    async with connect(auth=ServiceToken(token)) as client:
        await client.get("/a")
        await client.get("/a", headers={"Authorization": "Bearer users-own"})
    sent = [(r.header("x-api-key"), r.header("authorization")) for r in upstream.requests]
    assert sent == [("orders.secret", ""), ("", "Bearer one"), ("", "Bearer users-own")]


# Context


async def test_the_context_goes_along_and_every_try_is_a_span_of_its_own(
    upstream, connect, reply_with
):
    upstream.reply = scripted(reply_with(503), reply_with(200))
    trace = new_trace(sampled=True)
    context = Context(
        request_id="r-1", correlation_id="c-1", trace=trace, service="orders", tenant="t", user="u"
    )
    async with connect() as client:
        with bind(context):
            await client.get("/a")
    parents = []
    for request in upstream.requests:
        assert (request.header("x-request-id"), request.header("x-correlation-id")) == (
            "r-1",
            "c-1",
        )
        assert request.header("x-service-name") == "orders"
        sent = parse_trace(request.header("traceparent"))
        assert sent
        assert (sent.trace_id, sent.sampled) == (trace.trace_id, True)
        parents.append(sent.span_id)
    assert len({*parents, trace.span_id}) == 3
    assert "tenant" not in str(upstream.requests[0].headers)


async def test_the_span_of_an_observer_is_the_parent_of_the_other_side(upstream, connect):
    spans = []

    class Tracer:
        def on_start(self, op):
            span = op.context.trace.child()
            spans.append(span.span_id)
            op_bind = bind(trace=span)
            op_bind.__enter__()
            self.bound = op_bind

        def on_end(self, op):
            self.bound.__exit__(None, None, None)

    async with connect() as client:
        with bind(trace=new_trace()), observe(Tracer()):
            await client.get("/a")
    sent = parse_trace(upstream.requests[0].header("traceparent"))
    assert sent
    assert [sent.span_id] == spans


async def test_every_try_is_an_operation_with_a_template_and_no_values(
    upstream, connect, reply_with
):
    upstream.reply = scripted(reply_with(503), reply_with(200))
    observer = Observer()
    async with connect() as client:
        with observe(observer):
            await client.get("/accounts/{id}", path={"id": "secret"}, params={"q": "secret"})
    first, second, again = observer.ended
    assert (first[:3], again[0], second[:3]) == (
        ("GET /accounts/{id}", "error", "SERVICE_UNAVAILABLE"),
        "retry",
        ("GET /accounts/{id}", "ok", None),
    )
    assert first[3] == {
        "peer.service": "billing",
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "http.request.method": "GET",
        "url.template": "/accounts/{id}",
        "http.response.status_code": 503,
    }
    assert second[3]["http.request.resend_count"] == 1
    assert "secret" not in str(observer.ended)


# Deadlines


async def test_what_is_left_of_the_deadline_is_sent_in_seconds(upstream, connect):
    async with connect(timeout=300) as client:
        await client.get("/a")
        async with deadline(100):
            await client.get("/a")
        await client.get("/a", timeout=30)
    sent = [float(request.header(REQUEST_TIMEOUT_HEADER)) for request in upstream.requests]
    assert 100 < sent[0] <= 300
    assert 30 < sent[1] <= 100
    assert 0 < sent[2] <= 30


async def test_a_try_that_gets_less_time_than_the_call_says_so(upstream, connect):
    async with connect(timeout=300, try_timeout=100) as client:
        await client.get("/a")
        await client.get("/a", timeout=30)
    sent = [float(request.header(REQUEST_TIMEOUT_HEADER)) for request in upstream.requests]
    assert 30 < sent[0] <= 100
    assert 0 < sent[1] <= 30


async def test_of_a_stream_only_the_callers_own_deadline_is_told(upstream, connect):
    # The other side ends its answer at what it is told, and `timeout` is not for all of it.
    async with connect(timeout=60, try_timeout=40) as client:
        async with client.stream("GET", "/a"):
            pass
        async with deadline(300), client.stream("GET", "/a"):
            pass
        async with deadline(30), client.stream("GET", "/a"):
            pass
    told = [request.header(REQUEST_TIMEOUT_HEADER) for request in upstream.requests]
    assert told[0] == ""
    assert 60 < float(told[1]) <= 300
    assert 0 < float(told[2]) <= 30


async def test_the_clients_own_time_is_no_deadline_of_its_caller(connect):
    async def token():
        time.sleep(0.03)  # so that the time is up before any timer can say it
        check_deadline()
        return "t"

    async with connect(auth=ServiceToken(token), timeout=0.02) as client:
        with pytest.raises(RequestTimeoutError, match=r"within 0\.02 s"):
            await client.get("/a")
        with pytest.raises(DeadlineExceeded), deadline(0.01):
            await client.get("/a")


@pytest.mark.parametrize("given", ["timeout", "try_timeout"])
async def test_a_cancellation_in_the_very_moment_of_the_timeout_stays_one(
    upstream, connect, skip, given
):
    upstream.reply = lambda request: forever
    async with connect(breaker=Breaker("billing", patience=60), **{given: 50.0}) as client:
        task = asyncio.create_task(client.get("/a"))
        while not upstream.requests:
            await asyncio.sleep(0)
        skip(51)  # now both are due
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (client.breaker.snapshot().calls, client.bulkhead.active) == (0, 0)


async def test_interim_answers_without_end_end_with_the_timeout(upstream, connect):
    async def early(writer):
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0.001)

    upstream.reply = lambda request: early
    async with connect(timeout=0.1, retry=False) as client:
        with pytest.raises(RequestTimeoutError):
            await client.get("/a")
    await upstream.quiet()


async def test_an_answer_that_never_comes_ends_with_the_timeout(upstream, connect):
    upstream.reply = lambda request: forever
    async with connect(timeout=0.05) as client:
        with pytest.raises(RequestTimeoutError) as raised:
            await client.get("/a")
    assert raised.value.timeout_seconds == 0.05
    assert raised.value.retryable
    await upstream.quiet()


async def test_an_answer_that_drips_forever_ends_with_the_timeout(upstream, connect):
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.001)

    upstream.reply = lambda request: drip
    async with connect(timeout=0.1, retry=False) as client:
        with pytest.raises(RequestTimeoutError):
            await client.get("/a")
    await upstream.quiet()


async def test_the_callers_deadline_ends_the_call_as_what_it_is(upstream, connect, skip):
    async def too_late(writer):
        skip(31)
        await forever(writer)

    upstream.reply = lambda request: too_late
    async with connect(timeout=60) as client:
        with pytest.raises(DeadlineExceeded), deadline(30):
            await client.get("/a")
        with pytest.raises(DeadlineExceeded):
            async with deadline(30):
                await client.get("/a")
        with bind(deadline=time.monotonic() - 1), pytest.raises(DeadlineExceeded):
            await client.get("/a")
    assert len(upstream.requests) == 2


async def test_a_slow_try_is_ended_and_repeated_within_the_call(
    upstream, connect, reply_with, skip
):
    async def too_late(writer):
        skip(31)
        await forever(writer)

    replies = iter([too_late, reply_with(200)])
    upstream.reply = lambda request: next(replies)
    async with connect(timeout=300, try_timeout=30) as client:
        assert (await client.get("/a")).status == 200
    assert len(upstream.requests) == 2


async def test_a_token_function_that_hangs_ends_with_the_timeout(connect):
    async def token():
        await asyncio.Event().wait()
        return "never"

    async with connect(auth=ServiceToken(token), timeout=0.02) as client:
        with pytest.raises(RequestTimeoutError):
            await client.get("/a")


# Retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_idempotent_calls_are_repeated(upstream, connect, reply_with, status):
    upstream.reply = scripted(reply_with(status), reply_with(200))
    async with connect() as client:
        assert (await client.get("/a")).status == 200
        upstream.reply = scripted(reply_with(status), reply_with(200))
        assert (await client.put("/a", json=1)).status == 200
        upstream.reply = scripted(reply_with(status), reply_with(200))
        assert (await client.post("/a", json=1, idempotency_key="k-1")).status == 200
    assert len(upstream.requests) == 6
    assert [r.header("idempotency-key") for r in upstream.requests[-2:]] == ["k-1", "k-1"]
    assert [r.body for r in upstream.requests[-2:]] == [b"1", b"1"]


@pytest.mark.parametrize("verb", ["post", "patch"])
async def test_what_might_be_done_twice_is_not_repeated(upstream, connect, reply_with, verb):
    upstream.reply = lambda request: reply_with(503)
    async with connect() as client:
        with pytest.raises(ServiceUnavailableError):
            await getattr(client, verb)("/a", json=1)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 501])
async def test_what_will_be_answered_the_same_is_not_repeated(
    upstream, connect, reply_with, status
):
    upstream.reply = lambda request: reply_with(status)
    async with connect() as client:
        with pytest.raises(AppError):
            await client.get("/a")
    assert len(upstream.requests) == 1


async def test_every_method_is_repeated_while_nobody_listens(upstream, connect):
    await upstream.stop()
    attempts = 0

    async def token():
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            await upstream.start()
        return "t"

    async with connect(auth=ServiceToken(token)) as client:
        assert (await client.post("/a", json=1)).status == 200
    assert (attempts, len(upstream.requests)) == (3, 1)


async def test_retry_after_is_waited_for(upstream, connect, reply_with):
    loop = asyncio.get_running_loop()
    upstream.reply = scripted(reply_with(503, retry_after="1"), reply_with(200))
    async with connect() as client:
        began = loop.time()
        await client.get("/a")
        assert loop.time() - began >= 1


async def test_an_open_breaker_outlasts_a_retry_after(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(503, retry_after="1")
    breaker = Breaker("billing", minimum_calls=1, open_for=60)
    async with connect(breaker=breaker) as client:
        with pytest.raises(CircuitOpenError) as raised:
            await client.get("/a")
        assert raised.value.retry_after == pytest.approx(60, rel=0.3)
        assert isinstance(raised.value.__cause__, ServiceUnavailableError)
        assert raised.value.__cause__.retry_after == 1
        assert len(upstream.requests) == 1


async def test_a_retry_after_is_kept_by_the_probe_of_a_breaker(upstream, connect, reply_with):
    loop, times = asyncio.get_running_loop(), []
    replies = iter([reply_with(503, retry_after="1"), reply_with(200)])

    def reply(request):
        times.append(loop.time())
        return next(replies)

    upstream.reply = reply
    breaker = Breaker("billing", minimum_calls=1, open_for=0.05, open_maximum=0.05, probes=1)
    async with connect(breaker=breaker) as client:
        assert (await client.get("/a")).status == 200
    assert times[1] - times[0] >= 1
    assert breaker.state == "closed"


async def test_a_retry_after_date_counts_from_the_servers_own_clock(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(
        429, retry_after="Sun, 06 Nov 1994 08:59:37 GMT", date="Sun, 06 Nov 1994 08:49:37 GMT"
    )
    async with connect() as client:
        with pytest.raises(RateLimitedError) as raised:
            await client.get("/a")
    assert raised.value.retry_after == 600
    assert "max_wait" in raised.value.__notes__[0]
    assert len(upstream.requests) == 1


async def test_a_retry_after_beyond_the_deadline_fails_at_once(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(503, retry_after="20")
    loop = asyncio.get_running_loop()
    async with connect(timeout=10) as client:
        began = loop.time()
        with pytest.raises(ServiceUnavailableError):
            await client.get("/a")
        assert loop.time() - began < 10
    assert len(upstream.requests) == 1


async def test_a_body_whose_iteration_began_is_never_sent_again(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(503)
    started = 0

    async def chunks():
        nonlocal started
        started += 1
        yield b"once"

    async with connect() as client:
        with pytest.raises(ServiceUnavailableError):
            await client.put("/a", content=chunks())
    assert (started, len(upstream.requests)) == (1, 1)


async def test_a_body_nobody_began_to_read_is_sent_once_the_service_is_there(upstream, connect):
    await upstream.stop()
    tries = 0

    async def token():
        nonlocal tries
        tries += 1
        if tries == 2:
            await upstream.start()
        return "t"

    async def chunks():
        yield b"whole"

    async with connect(auth=ServiceToken(token)) as client:
        await client.post("/a", content=chunks())
    assert [request.body for request in upstream.requests] == [b"whole"]


async def test_what_the_callers_own_body_raises_is_the_callers_and_says_nothing_of_the_service(
    upstream, connect
):
    async def broken(error):
        yield b"one"
        await asyncio.sleep(0.01)
        raise error

    async def text():
        yield "one"

    async with connect(breaker=Breaker("billing", minimum_calls=1)) as client:
        for error in (KeyError("mine"), FileNotFoundError("mine"), ConnectionResetError("mine")):
            with pytest.raises(type(error), match="mine"):
                await client.put("/a", content=broken(error))
        with pytest.raises(TypeError, match="yielded str: let it yield bytes"):
            await client.put("/a", content=text())
        assert client.breaker.snapshot().calls == 0
        assert (await client.get("/a")).status == 200
    await upstream.quiet()


async def test_an_empty_key_makes_nothing_repeatable(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(503)
    async with connect() as client:
        for key in ("", '"quoted-as-in-the-draft"'):
            with pytest.raises(ServiceUnavailableError):
                await client.post("/a", headers={"idempotency-key": key})
    assert [request.header("Idempotency-Key") for request in upstream.requests] == [
        "",
        *['"quoted-as-in-the-draft"'] * 3,
    ]


async def test_a_key_is_given_in_one_way(connect):
    async with connect() as client:
        with pytest.raises(TypeError, match="either"):
            await client.post("/a", idempotency_key="a", headers={"Idempotency-Key": "b"})


async def test_what_fails_before_anything_is_sent_is_repeated_for_every_method(upstream, connect):
    failures = [ConnectionResetError(), TimeoutError()]

    async def token():
        if failures:
            raise failures.pop()
        return "t"

    async with connect(auth=ServiceToken(token)) as client:
        assert (await client.post("/a", json=1)).status == 200
    assert len(upstream.requests) == 1


async def test_a_connection_closed_while_idle_costs_no_call(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(200, connection="keep-alive")
    async with connect() as client:
        await client.get("/a")
        for writer in list(upstream.writers):
            writer.close()
        await upstream.quiet()
        assert (await client.post("/a", json=1)).status == 200
    assert upstream.accepted == 2


async def test_a_connection_closed_at_the_same_moment_repeats_only_what_is_safe(
    upstream, connect, reply_with
):
    upstream.reply = scripted(reply_with(200), None, reply_with(200))
    async with connect() as client:
        await client.get("/a")
        assert (await client.get("/a")).status == 200  # closed without an answer, and repeated
        upstream.reply = scripted(None, reply_with(200))
        with pytest.raises(UpstreamServiceError) as raised:
            await client.post("/a", json=1)
    assert raised.value.retryable  # whoever knows better may
    assert len(upstream.requests) == 4


# Breaker and bulkhead


async def test_a_dead_service_is_left_alone(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(500)
    async with connect(retry=False, breaker=Breaker("billing", minimum_calls=5)) as client:
        for _ in range(5):
            with pytest.raises(UpstreamServiceError):
                await client.get("/a")
        for _ in range(10):
            with pytest.raises(CircuitOpenError, match="billing is not called"):
                await client.get("/a")
    assert len(upstream.requests) == 5


async def test_a_service_that_answers_that_something_is_wrong_with_the_call_is_alive(
    upstream, connect, reply_with
):
    upstream.reply = lambda request: reply_with(404)
    async with connect(breaker=Breaker("billing", minimum_calls=2)) as client:
        for _ in range(10):
            with pytest.raises(NotFoundError):
                await client.get("/a")
        assert client.breaker.state == "closed"


async def test_a_service_that_hangs_opens_the_circuit_by_the_clients_own_timeout(upstream, connect):
    upstream.reply = lambda request: forever
    async with connect(timeout=0.02, breaker=Breaker("billing", minimum_calls=3)) as client:
        for _ in range(3):
            with pytest.raises(RequestTimeoutError):
                await client.get("/a")
        with pytest.raises(CircuitOpenError):
            await client.get("/a")


async def test_callers_in_a_hurry_open_no_circuit(upstream, connect):
    upstream.reply = lambda request: forever
    breaker = Breaker("billing", minimum_calls=3, clock=lambda: 0.0)
    async with connect(breaker=breaker) as client:
        for _ in range(10):
            with pytest.raises(DeadlineExceeded), deadline(0.005):
                await client.get("/a")
        assert client.breaker.snapshot().calls == 0


async def test_more_calls_than_places_are_refused_and_none_is_lost(upstream, connect, reply_with):
    gate = asyncio.Event()

    async def gated(writer):
        await gate.wait()
        writer.write(reply_with(200))

    upstream.reply = lambda request: gated
    async with connect(limits=Limits(max_concurrency=3, max_queue=2)) as client:
        tasks = [asyncio.create_task(client.get("/a")) for _ in range(10)]
        while len(upstream.requests) < 3:
            await asyncio.sleep(0.001)
        assert (client.bulkhead.active, client.bulkhead.waiting) == (3, 2)
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, BulkheadFullError) for result in results) == 5
    assert (len(upstream.requests), upstream.accepted <= 3) == (5, True)


async def test_nobody_queues_for_a_service_that_is_known_to_be_dead(upstream, connect):
    breaker = Breaker("billing", minimum_calls=1, open_for=60)
    upstream.reply = lambda request: forever
    async with connect(breaker=breaker, limits=Limits(max_concurrency=1)) as client:
        first = asyncio.create_task(client.get("/a"))
        while not upstream.requests:
            await asyncio.sleep(0.001)
        with suppress(ConnectionResetError):
            async with breaker:
                raise ConnectionResetError
        with pytest.raises(CircuitOpenError):
            await client.get("/a")
        assert not first.done()
        await client.close()
        with pytest.raises(ClientClosedError):
            await first


async def test_a_hedged_read_takes_the_first_answer(upstream, connect, reply_with):
    replies = iter([forever, reply_with(200, {"id": 2})])
    upstream.reply = lambda request: next(replies)
    async with connect() as client:
        assert await client.get("/a", into=Account, hedge=Hedge(after=0.01)) == Account(id=2)
        assert client.bulkhead.active == 0
        with pytest.raises(ValueError, match="hedge"):
            await client.post("/a", hedge=Hedge(after=0.01))


async def test_a_body_that_can_be_sent_only_once_is_not_hedged(upstream, connect):
    async def chunks():
        yield b"once"

    async with connect() as client:
        with pytest.raises(ValueError, match="sent twice"):
            await client.get("/search", content=chunks(), hedge=Hedge(after=0))
        with pytest.raises(TypeError, match="hedge= is a policy"):
            await client.get("/search", hedge=0.05)
        await client.get("/search", content=b"twice", hedge=Hedge(after=60))
    assert len(upstream.requests) == 1


async def test_hedges_earn_a_budget_of_their_own_where_retries_have_none(
    upstream, connect, reply_with
):
    async def slow(writer):
        await asyncio.sleep(0.05)
        writer.write(reply_with(200))

    upstream.reply = lambda request: slow
    hedge = Hedge(after=0.001, budget=RetryBudget(ratio=0.5, min_per_second=0, clock=lambda: 0.0))
    async with connect(retry=Retry(budget=None)) as client:
        for _ in range(4):
            await client.get("/a", hedge=hedge)
    assert hedge.budget.balance == 0  # four calls earned two, and both were spent


async def test_hedges_spend_from_the_retry_budget(upstream, connect, reply_with):
    async def slow(writer):
        await asyncio.sleep(0.05)
        writer.write(reply_with(200))

    upstream.reply = lambda request: slow
    policy = Retry(budget=RetryBudget(ratio=0, min_per_second=0))
    async with connect(retry=policy) as client:
        await client.get("/a", hedge=Hedge(after=0))
    assert len(upstream.requests) == 1


# Errors


async def test_errors_say_who_what_and_why_without_saying_too_much(upstream, connect, reply_with):
    document = {"type": "https://x/e", "title": "Sold out", "detail": "d" * 5000, "code": "GONE"}
    upstream.reply = lambda request: reply_with(
        409, document, content_type="application/problem+json"
    )
    async with connect() as client:
        with pytest.raises(AppError) as raised:
            await client.get("/items/{id}", path={"id": "secret"}, params={"key": "secret"})
    error = raised.value
    assert error.to_dict()["details"] == {
        "upstream_service": "billing",
        "upstream_status": 409,
        "upstream_error": "GONE",
        "endpoint": "/items/{id}",
    }
    problem = problem_of(error)
    assert problem
    assert (problem.title, problem.code, len(problem.detail or "")) == ("Sold out", "GONE", 1000)
    assert problem_of(pickle.loads(pickle.dumps(error))) == problem


async def test_an_envelope_is_understood(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(
        404, {"error": {"code": "NO_ACCOUNT", "message": "No account\nhere"}}
    )
    async with connect() as client:
        with pytest.raises(NotFoundError) as raised:
            await client.get("/a")
    problem = problem_of(raised.value)
    assert problem
    assert (problem.code, problem.title) == ("NO_ACCOUNT", "No account here")


@pytest.mark.parametrize("status", [500, 503, 429])
@pytest.mark.parametrize("style", ["envelope", "problem"])
async def test_who_says_that_repeating_is_of_no_use_is_not_asked_again(
    upstream, connect, reply_with, status, style
):
    details = {"service": "ledger", "retryable": False}
    envelope = {"data": None, "error": {"code": "X", "message": "No", "details": details}}
    problem = {"title": "No", "code": "X", "details": details}
    upstream.reply = lambda request: (
        reply_with(status, envelope)
        if style == "envelope"
        else reply_with(status, problem, content_type="application/problem+json")
    )
    async with connect() as client:
        with pytest.raises(AppError) as raised:
            await client.get("/a")
    assert len(upstream.requests) == 1
    assert not raised.value.retryable


@pytest.mark.parametrize(("verb", "status"), [("post", 503), ("get", 501)])
async def test_nobody_can_make_us_repeat_what_is_not_repeatable(
    upstream, connect, reply_with, verb, status
):
    upstream.reply = lambda request: reply_with(
        status, {"error": {"code": "X", "details": {"retryable": True}}}
    )
    async with connect() as client:
        with pytest.raises(AppError):
            await getattr(client, verb)("/a")
    assert len(upstream.requests) == 1


async def test_errors_name_the_call_by_its_method_and_template(upstream, connect, reply_with):
    call = ("/items/{id}", {"id": "canary"})
    replies = {
        "billing answered with HTTP status 500 to GET /items/{id}": reply_with(500),
        "billing, GET /items/{id}: its answer is no JSON; it is text/html": reply_with(
            200, b"<html>", content_type="text/html"
        ),
        "billing, GET /items/{id}: the answer is longer than 9 bytes": reply_with(200, b"1" * 10),
        "billing, GET /items/{id}: it redirects once more, and follow_redirects is 0": reply_with(
            302, location="/canary"
        ),
    }
    async with connect(retry=False, limits=Limits(max_response_bytes=9)) as client:
        for message, reply in replies.items():
            upstream.reply = lambda request, reply=reply: reply
            with pytest.raises(UpstreamServiceError) as raised:
                (await client.get(call[0], path=call[1], params={"q": "canary"})).json()
            assert (str(raised.value), raised.value.endpoint) == (message, "/items/{id}")
        upstream.reply = lambda request: forever
        with pytest.raises(RequestTimeoutError, match=r"answer GET /items/\{id\} within 0.1 s"):
            await client.get(call[0], path=call[1], timeout=0.1)
        await upstream.stop()
        with pytest.raises(ServiceUnavailableError, match=r"reached for GET /items/\{id\}: nobody"):
            await client.get(call[0], path=call[1])


async def test_what_nothing_can_be_decoded_into_is_refused_before_anything_is_sent(
    upstream, connect
):
    async with connect() as client:
        for into in ({}, "Account"):
            with pytest.raises(TypeError, match="into= is of type"):
                await client.post("/a", into=into)
    assert upstream.requests == []


@pytest.mark.parametrize("key", [uuid4(), "CREDIT:O_17"], ids=["uuid", "text"])
async def test_a_key_may_be_a_uuid(upstream, connect, reply_with, key):
    upstream.reply = scripted(reply_with(503), reply_with(200))
    async with connect() as client:
        await client.post("/a", idempotency_key=key)
    assert [each.header("idempotency-key") for each in upstream.requests] == [str(key)] * 2


async def test_no_key_is_none(upstream, connect):
    key: str | None = None
    async with connect() as client:
        await client.post("/a", idempotency_key=key)
    assert upstream.requests[0].header("idempotency-key") == ""


@pytest.mark.parametrize("body", [b"", b"<html>canary", b'{"id": "canary"}', b"[" * 200_000])
async def test_an_answer_that_cannot_be_decoded_is_an_error_of_the_other_side_and_not_repeated(
    upstream, connect, reply_with, body
):
    upstream.reply = lambda request: reply_with(200, body, content_type="application/json")
    async with connect() as client:
        with pytest.raises(UpstreamServiceError) as raised:
            await client.get("/a", into=Account)
        error = raised.value
        assert (error.retryable, error.upstream_status, client.bulkhead.active) == (False, 200, 0)
        assert "canary" not in f"{error!r}{error.to_dict()}"
        assert len(upstream.requests) == 1
        upstream.reply = lambda request: reply_with(200, {"id": 7})
        assert await client.get("/a", into=Account) == Account(id=7)


async def test_only_delegated_calls_pass_on_that_the_caller_may_not(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(403)
    async with connect() as client:
        with pytest.raises(UpstreamServiceError):
            await client.get("/a")
        with pytest.raises(ForbiddenError):
            await client.get("/a", delegated=True)


async def test_no_httpx_type_comes_out(upstream, connect):
    await upstream.stop()
    async with connect(retry=False) as client:
        with pytest.raises(ServiceUnavailableError) as raised:
            await client.get("/a")
    assert isinstance(raised.value.__cause__, httpx.ConnectError)


# Opening and closing


async def test_closing_ends_the_calls_of_others_with_a_clear_error(upstream, connect):
    upstream.reply = lambda request: forever
    client = connect(limits=Limits(max_concurrency=5))
    async with client:
        tasks = [asyncio.create_task(client.get("/a")) for _ in range(10)]  # 5 wait for a place
        while len(upstream.requests) < 5:
            await asyncio.sleep(0.001)
        await client.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {ClientClosedError}
    assert (client.bulkhead.active, client.bulkhead.waiting, client._running) == (0, 0, set())
    await upstream.quiet()
    await client.close()
    with pytest.raises(ClientClosedError, match="closed"):
        await client.get("/a")


async def test_closing_ends_a_pause_between_tries(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(503, retry_after="9")
    client = connect()
    async with client:
        task = asyncio.create_task(client.get("/a"))
        while not upstream.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(ClientClosedError):
            await task


async def test_a_pause_that_any_error_is_worth_ends_with_the_client(upstream, connect, reply_with):
    upstream.reply = lambda request: forever
    policy = Retry(on=Exception, backoff=Backoff(first=3600, maximum=3600))
    client = connect(retry=policy, timeout=36_000)
    async with client:
        task = asyncio.create_task(client.get("/a"))
        while not upstream.requests:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(60):
            await client.close()
        with pytest.raises(ClientClosedError):
            await task


async def test_a_client_whose_opening_is_cancelled_closes_the_transport_it_was_given(connect):
    class Transport(httpx.MockTransport):
        closed = 0

        async def aclose(self):
            self.closed += 1

    transport = Transport(lambda request: httpx.Response(200))
    opening = asyncio.create_task(connect(transport=transport).__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert transport.closed == 1


async def test_a_client_that_was_not_opened_or_is_used_up_says_so(connect):
    client = connect()
    with pytest.raises(ClientClosedError, match="async with"):
        await client.get("/a")
    async with client:
        pass
    with pytest.raises(ClientClosedError, match="make a new one"):
        await client.__aenter__()


async def test_a_transport_can_be_given_and_is_closed(connect):
    class Transport(httpx.MockTransport):
        closed = 0

        async def aclose(self):
            self.closed += 1

    transport = Transport(lambda request: httpx.Response(200, json={"url": str(request.url)}))
    async with connect("https://billing.internal/api", transport=transport) as client:
        assert (await client.get("/a")).json() == {"url": "https://billing.internal/api/a"}
    await client.close()
    assert transport.closed == 1
    never = Transport(lambda request: httpx.Response(200))
    await connect(transport=never).close()
    assert never.closed == 1


async def test_a_client_can_be_made_from_configuration(upstream):
    config = ClientConfig(service="billing", base_url=upstream.url, timeout=3)
    client = ServiceClient.from_config(config)
    assert client.config == config
    async with client:
        assert (await client.get("/a")).json() == {"ok": True}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"retry": 3}, "retry"),
        ({"breaker": "yes"}, "breaker"),
        ({"auth": "key"}, "auth"),
        ({"transport": "http"}, "transport"),
        ({"timeout": -1}, "timeout"),
        ({"base_url": "billing:80"}, "base_url"),
    ],
)
def test_misconfiguration_names_the_field(options, field):
    given: dict[str, Any] = {"service": "billing", "base_url": "http://b", **options}
    with pytest.raises(ValueError, match=field):
        ServiceClient(**given)


async def test_mistyped_options_are_refused(connect):
    async with connect() as client:
        with pytest.raises(TypeError, match="parms"):
            await client.get("/a", parms={})
        for option in ("path", "params", "headers"):
            with pytest.raises(TypeError, match=f"{option}= is a mapping"):
                await client.get("/a", **{option: "a=1"})
        with pytest.raises(ValueError, match="timeout"):
            await client.get("/a", timeout=0)
        with pytest.raises(ValueError, match="method"):
            await client.request("BREW", "/a")


async def test_an_app_can_be_called_in_process(connect):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    transport = httpx.ASGITransport(app)
    async with connect("http://orders", transport=transport) as client:
        assert (await client.get("/x/{id}", path={"id": 1})).text == "/x/1"
