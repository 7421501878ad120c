"""Many callers, a dying service, and cancellation everywhere."""

import asyncio
import sys
from collections import Counter

import pytest

from common.clients import (
    Backoff,
    Breaker,
    Hedge,
    Limits,
    Retry,
    RetryBudget,
    ServiceToken,
)
from common.context import observe
from common.errors import (
    AppError,
    CircuitOpenError,
    RequestTimeoutError,
    ServiceUnavailableError,
    UpstreamServiceError,
)
from common.testing import FaultProxy, ManagedProcess, reserve_port


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


async def ticks(number):
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.timeout(600)
async def test_a_thousand_callers_of_a_dying_service_stay_within_the_retry_budget(
    upstream, connect, reply_with
):
    upstream.reply = lambda request: reply_with(503)
    policy = Retry(
        attempts=5,
        backoff=Backoff(first=0.01, maximum=0.01),
        # The clock stands still: all is one window, however slow the machine.
        budget=RetryBudget(ratio=0.1, min_per_second=2, window=10, clock=lambda: 0.0),
    )
    limits = Limits(max_concurrency=100, max_queue=1000)
    async with connect(retry=policy, breaker=False, limits=limits, timeout=600) as client:
        results = await asyncio.gather(
            *(client.get("/a") for _ in range(1000)), return_exceptions=True
        )
    assert Counter(map(type, results)) == {ServiceUnavailableError: 1000}
    assert 1100 < len(upstream.requests) <= 1000 + 100 + 20


async def test_with_a_breaker_a_dying_service_gets_next_to_nothing(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(500)
    limits = Limits(max_concurrency=10, max_queue=1000)
    breaker = Breaker("billing", open_for=60, clock=Clock())
    async with connect(breaker=breaker, limits=limits) as client:
        results = await asyncio.gather(
            *(client.get("/a") for _ in range(1000)), return_exceptions=True
        )
    assert {type(result) for result in results} <= {UpstreamServiceError, CircuitOpenError}
    # 20 calls open it, and those under way then are not called back.
    assert 20 <= len(upstream.requests) <= 20 + 10


async def test_of_fifty_callers_only_the_probe_reaches_a_service_on_trial(
    upstream, connect, reply_with
):
    clock = Clock()
    breaker = Breaker("billing", minimum_calls=2, clock=clock)
    upstream.reply = lambda request: reply_with(500)
    async with connect(breaker=breaker, retry=False) as client:
        for _ in range(2):
            with pytest.raises(UpstreamServiceError):
                await client.get("/a")
        clock.now += 7
        upstream.requests.clear()
        gate = asyncio.Event()

        async def gated(writer):
            await gate.wait()
            writer.write(reply_with(200))

        upstream.reply = lambda request: gated
        tasks = [asyncio.create_task(client.get("/a")) for _ in range(50)]
        while sum(task.done() for task in tasks) < 49 or not upstream.requests:
            await asyncio.sleep(0.001)
        assert len(upstream.requests) == 1
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = Counter(type(result).__name__ for result in results)
    assert kinds == {"CircuitOpenError": 49, "Response": 1}


async def test_a_flapping_service_loses_no_idempotent_call(upstream, connect, reply_with):
    count = 0

    def flapping(request):
        nonlocal count
        count += 1
        return None if count % 3 == 0 else reply_with(503 if count % 3 == 1 else 200)

    upstream.reply = flapping
    policy = Retry(attempts=20, backoff=Backoff(first=0.001), budget=None)
    async with connect(retry=policy, breaker=False, timeout=60) as client:
        for _ in range(30):
            assert (await client.get("/a")).status == 200


async def test_through_a_proxy_that_cuts_stalls_and_refuses(upstream, connect):
    async with FaultProxy(f"127.0.0.1:{upstream.port}") as proxy:
        url = proxy.url(upstream.url)
        policy = Retry(attempts=2, backoff=Backoff(first=0.001), budget=None)
        async with connect(url, retry=policy, breaker=False) as client:
            assert (await client.get("/a")).status == 200

            proxy.cut()
            assert (await client.get("/a")).status == 200

            proxy.stall()
            with pytest.raises(AppError, match=r"did not answer \w+ /a within"):
                await client.get("/a", timeout=0.1)
            proxy.heal()
            assert (await client.get("/a")).status == 200

            proxy.drop(direction="downstream")
            with pytest.raises(AppError, match=r"did not answer \w+ /a within"):
                await client.post("/a", json=1, timeout=0.1)
            proxy.heal()

            proxy.cut()
            proxy.refuse()
            with pytest.raises(ServiceUnavailableError, match="cannot be reached"):
                await client.post("/a", json=1)
            proxy.heal()
            assert (await client.post("/a", json=1)).status == 200
            assert client.bulkhead.active == 0


@pytest.fixture
def port():
    with reserve_port() as port:
        yield port


async def test_a_service_that_stands_still_is_left_alone_until_it_goes_on(connect, port):
    arguments = ("-m", "http.server", str(port), "--bind", "127.0.0.1", "--protocol", "HTTP/1.1")
    clock = Clock()
    breaker = Breaker("billing", minimum_calls=4, clock=clock)
    async with (
        ManagedProcess(sys.executable, *arguments, ready=port) as process,
        connect(f"http://127.0.0.1:{port}", breaker=breaker) as client,
    ):
        assert (await client.get("/")).status == 200
        process.pause()
        for _ in range(3):
            with pytest.raises(RequestTimeoutError):
                await client.get("/", timeout=0.1)
        with pytest.raises(CircuitOpenError):
            await client.get("/")
        process.resume()
        clock.now += 7
        assert (await client.get("/")).status == 200
        assert breaker.state == "closed"
        process.kill()
        with pytest.raises((ServiceUnavailableError, UpstreamServiceError)):
            await client.post("/", json=1)
        assert client.bulkhead.active == 0


@pytest.mark.timeout(600)
async def test_when_a_service_dies_under_a_thousand_callers_retries_stay_within_the_budget(
    upstream, connect, reply_with
):
    async with FaultProxy(f"127.0.0.1:{upstream.port}") as proxy:

        async def slow(writer):
            await asyncio.sleep(0.01)
            writer.write(reply_with(200))

        upstream.reply = lambda request: slow
        observer = Tries()
        budget = RetryBudget(ratio=0.1, min_per_second=1, window=10, clock=lambda: 0.0)
        policy = Retry(attempts=5, backoff=Backoff(first=0.01), budget=budget)
        url = proxy.url(upstream.url)
        async with connect(url, retry=policy, breaker=False, timeout=600) as client:
            with observe(observer):
                tasks = [asyncio.create_task(client.get("/a")) for _ in range(1000)]
                while not any(task.done() for task in tasks):
                    await asyncio.sleep(0.001)
                proxy.cut()
                proxy.refuse()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert (client.bulkhead.active, client.bulkhead.waiting) == (0, 0)
    kinds = {type(result).__name__ for result in results}
    assert "Response" in kinds
    assert kinds <= {"Response", "ServiceUnavailableError", "UpstreamServiceError"}
    assert 1000 < observer.tries <= 1000 + 100 + 10


class Tries:
    def __init__(self):
        self.tries = 0

    def on_start(self, op):
        self.tries += op.kind == "http.client"

    def on_end(self, op):
        pass


@pytest.mark.parametrize("kind", ["whole", "stream", "error", "redirect", "hedge"])
async def test_cancelling_at_any_await_leaks_nothing(upstream, connect, reply_with, kind):
    async def token():
        await asyncio.sleep(0)
        return "t"

    def reply(request):
        if kind == "error":
            return reply_with(503, {"title": "x"})
        if kind == "redirect" and request.target == "/a":
            return reply_with(302, location="/b")
        return reply_with(200, b"x" * 100_000, chunked=True)

    async def call():
        if kind == "stream":
            async with client.stream("GET", "/a") as response:
                async for _ in response.iter_bytes():
                    pass
        elif kind == "hedge":
            await client.get("/a", hedge=Hedge(after=0))
        else:
            await client.get("/a")

    upstream.reply = reply
    clock = Clock()
    places = 2 if kind == "hedge" else 1
    limits = Limits(max_concurrency=places, max_queue=0)
    options = {"limits": limits, "auth": ServiceToken(token), "follow_redirects": 1}
    for half_open in (False, True):
        breaker = Breaker("billing", minimum_calls=10**6, clock=clock)
        async with connect(breaker=breaker, **options) as client:
            finished = 0
            for steps in range(400):
                if half_open:
                    breaker._open()
                    clock.now += 100
                task = asyncio.create_task(call())
                await ticks(steps)
                finished += task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert (client.bulkhead.active, client.bulkhead.waiting) == (0, 0)
                assert (breaker._running, breaker._probing, client._running) == ({}, 0, set())
                if finished >= 3:
                    break
            upstream.reply = lambda request: reply_with(200)
            if half_open:
                breaker._open()
                clock.now += 100
            assert (await client.get("/a")).status == 200  # with the only connection there is
            upstream.reply = reply
        await upstream.quiet()
