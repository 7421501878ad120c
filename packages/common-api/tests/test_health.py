"""Liveness, readiness, drain."""

import asyncio
import contextlib
import logging
import signal
import sys
from typing import Any, cast

import httpx
import pytest
from api_drivers import ask
from fastapi import FastAPI

from common.api import Check, Health, ProbesMiddleware, install
from common.context import deadline, remaining
from common.errors import DatabaseError
from common.testing import ManagedProcess, reserve_port


class Probe:
    def __init__(self, *results):
        self.results = list(results)
        self.calls = 0
        self.cancelled = 0

    async def __call__(self):
        self.calls += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if result == "hang":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if isinstance(result, Exception):
            raise result
        return result


class Health1:
    ok = False


def app_of(health, **options):
    app = FastAPI()
    install(app, service="orders", version="1.2.3", health=health, **options)
    return app


@pytest.mark.parametrize(
    ("result", "critical", "status", "word"),
    [
        (None, True, 200, "ok"),
        (True, True, 200, "ok"),
        (False, True, 503, "unavailable"),
        (Health1(), True, 503, "unavailable"),
        ("anything", True, 503, "unavailable"),
        (OSError("host db-7.internal is down"), True, 503, "unavailable"),
        (OSError("host db-7.internal is down"), False, 200, "degraded"),
        ("hang", True, 503, "unavailable"),
    ],
)
async def test_readiness_follows_the_checks(result, critical, status, word, log):
    timeout = 0.1 if result == "hang" else 60
    check = Check("db", Probe(result), timeout=timeout, critical=critical)
    answer = await ask(app_of(Health(ready=[check])), path="/readyz")
    assert (answer.status, answer.json()["status"]) == (status, word)
    shown = answer.json()["checks"]["db"]
    assert shown["critical"] is critical
    assert shown["status"] == {"ok": "ok", "hang": "timeout"}.get(
        word if word == "ok" else result if isinstance(result, str) else "", "failed"
    )
    assert b"internal" not in answer.body
    assert answer.header("cache-control") == "no-store"


async def test_liveness_touches_nothing():
    probe = Probe(OSError())
    health = Health(ready=[Check("db", probe)])
    health.start_draining()
    answer = await ask(app_of(health), path="/livez")
    assert (answer.status, probe.calls) == (200, 0)


async def test_the_older_shape():
    answer = await ask(app_of(Health(ready=[Check("db", Probe(False))])), path="/health")
    shown = answer.json()
    assert answer.status == 503
    assert set(shown) == {"status", "service", "version", "timestamp", "checks"}
    assert (shown["status"], shown["service"], shown["version"]) == ("unhealthy", "orders", "1.2.3")


async def test_checks_run_side_by_side():
    one, two = asyncio.Event(), asyncio.Event()

    async def first():
        one.set()
        await two.wait()

    async def second():
        two.set()
        await one.wait()

    health = Health(ready=[Check("a", first, timeout=20), Check("b", second, timeout=20)])
    ready, _ = await health.readiness()
    assert ready


async def test_many_who_ask_share_one_run_and_its_result():
    probe = Probe(True)
    health = Health(ready=[Check("db", probe)], cache=3600)
    await asyncio.gather(*(health.readiness() for _ in range(50)))
    await health.readiness()
    assert probe.calls == 1
    fresh = Health(ready=[Check("db", probe)], cache=0)
    await fresh.readiness()
    await fresh.readiness()
    assert probe.calls == 3


async def test_the_run_outlives_who_asked_first():
    go = asyncio.Event()
    health = Health(ready=[Check("db", go.wait, timeout=20)])
    first = asyncio.create_task(health.readiness())
    await asyncio.sleep(0)
    second = asyncio.create_task(health.readiness())
    await asyncio.sleep(0)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    go.set()
    assert (await second)[0]


async def test_a_probe_that_does_not_heed_its_end_holds_nothing_up():
    go, calls = asyncio.Event(), []

    async def stubborn():
        calls.append(1)
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()

    health = Health(ready=[Check("db", stubborn, timeout=0.3)], cache=0)
    for _ in range(3):
        assert not (await health.readiness())[0]
    assert len(calls) == 1
    go.set()
    async with asyncio.timeout(60):
        while not (await health.readiness())[0]:
            await asyncio.sleep(0.01)
    assert len(calls) > 1


async def test_a_probe_that_hangs_is_cancelled():
    probe = Probe("hang")
    await Health(ready=[Check("db", probe, timeout=0.01)]).readiness()
    await asyncio.sleep(0)
    assert probe.cancelled == 1


async def test_a_drain_turns_readiness_and_nothing_else():
    health = Health(drain=0.01)
    app = app_of(health)
    await health.drain()
    answer = await ask(app, path="/readyz")
    assert (answer.status, answer.json()["status"]) == (503, "draining")
    assert (await ask(app, path="/livez")).status == 200
    assert (await ask(app, path="/docs")).status == 200


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Check("a b", Probe(True)), ValueError),
        (lambda: Check("a", Probe(True), timeout=0), ValueError),
        (lambda: Check("a", cast("Any", lambda: True)), TypeError),
        (lambda: Health(ready=[Check("a", Probe(1)), Check("a", Probe(1))]), ValueError),
        (lambda: Health(drain=-1), ValueError),
        (lambda: Check("a", Probe(True), timeout=cast("Any", "1")), ValueError),
        (lambda: Health(ready=cast("Any", [Probe(1)])), TypeError),
        (lambda: Health(drain=cast("Any", "5")), ValueError),
        (lambda: Health(cache=cast("Any", "5")), ValueError),
    ],
)
def test_what_cannot_be_is_refused_at_once(make, error):
    with pytest.raises(error, match=r"(?i)check|ready=|(timeout|drain|cache)=.*give"):
        make()


async def test_probes_need_no_host_and_no_credentials_but_get_ids():
    app = FastAPI(dependencies=[])
    install(app, service="orders", hosts=["api.example.com"], metrics=lambda: (b"m 1\n", "text/x"))
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        answer = await ask(app, path=path, headers=[(b"host", b"10.0.0.1:8000")])
        assert answer.status == 200
        assert answer.header("x-request-id")
        assert (await ask(app, "HEAD", path, headers=[(b"host", b"x")])).body == b""
    assert (await ask(app, path="/metrics")).body == b"m 1\n"
    assert (await ask(app, path="/metrics")).header("content-type") == "text/x"
    assert (await ask(app, path="/orders", headers=[(b"host", b"10.0.0.1")])).status == 400


async def test_metrics_are_the_applications_unless_given():
    async def inner(scope, receive, send):
        raise LookupError

    answer = await ask(ProbesMiddleware(inner), path="/metrics")
    assert isinstance(answer.error, LookupError)


async def test_behind_a_prefix_probes_are_found():
    assert (await ask(app_of(Health()), path="/api/livez", root_path="/api")).status == 200


SERVICE = """
import sys, uvicorn
from fastapi import FastAPI
from common.api import Health, install
app = FastAPI()
install(app, service="orders", health=Health(drain=float(sys.argv[2])))
@app.get("/work")
async def work(): return "done"
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""


async def test_a_server_drains_before_it_stops_accepting():
    async with httpx.AsyncClient(timeout=60) as client:
        with reserve_port() as port:
            url = f"http://127.0.0.1:{port}"
            command = (sys.executable, "-c", SERVICE, str(port), "3600")
            async with ManagedProcess(*command, ready=port) as process:
                assert (await client.get(url + "/readyz")).status_code == 200
                process.send_signal(signal.SIGTERM)
                while (await client.get(url + "/readyz")).status_code != 503:
                    await asyncio.sleep(0.01)
                async with httpx.AsyncClient(timeout=60) as new_connection:
                    assert (await new_connection.get(url + "/work")).json() == "done"
                assert process.running
                process.send_signal(signal.SIGTERM)  # who insists does not wait for the hour
                await client.aclose()
                assert await process.wait(20) in (0, -signal.SIGTERM)


async def test_a_server_stops_by_itself_after_the_drain():
    with reserve_port() as port:
        command = (sys.executable, "-c", SERVICE, str(port), "0.2")
        async with ManagedProcess(*command, ready=port) as process:
            process.send_signal(signal.SIGTERM)
            assert await process.wait(20) in (0, -signal.SIGTERM)
            assert "Traceback" not in process.output()


async def test_a_probe_that_ends_cancelled_is_a_failure_and_no_cancelled_request():
    async def probe():
        task = asyncio.create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    answer = await ask(app_of(Health(ready=[Check("db", probe, timeout=60)])), path="/readyz")
    assert (answer.status, answer.json()["checks"]["db"]["status"]) == (503, "failed")


def test_metrics_that_would_fail_at_the_first_scrape_are_refused_at_once():
    async def page(): ...

    for given in (page, "page"):
        with pytest.raises(TypeError, match="plain function"):
            install(FastAPI(), service="orders", metrics=cast("Any", given))


async def test_probes_are_only_read():
    app = app_of(Health())
    assert [(await ask(app, method, "/livez")).status for method in ("POST", "DELETE")] == [404] * 2


async def test_the_deadline_of_who_asks_is_not_that_of_the_checks():
    seen = []

    async def probe():
        seen.append(remaining())

    with deadline(60.0):
        assert (await Health(ready=[Check("db", probe)]).readiness())[0]
    assert seen == [None]


class Answer1:
    def __init__(self, ok):
        self.ok = ok


def down():
    error = DatabaseError("no answer")
    error.__cause__ = ConnectionRefusedError(111, "refused")
    return error


@pytest.mark.parametrize(
    ("result", "why", "traceback"),
    [
        (False, "failed: it returned False", False),
        ({"ok": False}, "failed: it returned a dict; healthy is None, True, or an object", False),
        (Answer1(ok=False), "failed: it returned a Answer1; healthy is", False),
        (down(), "failed: DatabaseError: no answer, caused by ConnectionRefusedError: [", False),
        (TimeoutError(), "failed: TimeoutError", False),
        (KeyError("x"), "failed: KeyError: 'x'", True),
        ("hang", "timeout: it took longer than 0.05 s", False),
    ],
)
async def test_the_log_says_once_why_a_check_is_not_ok(result, why, traceback, log):
    timeout = 0.05 if result == "hang" else 60
    health = Health(ready=[Check("db", Probe(result), timeout=timeout)], cache=0)
    for _ in range(3):
        assert not (await health.readiness())[0]
    [record] = [record for record in log if record.name == "common.api"]
    assert record.getMessage().startswith(f"check db: {why}")
    assert (record.levelno, bool(record.exc_info)) == (logging.WARNING, traceback)


async def test_the_log_says_when_a_check_changes(log):
    probe = Probe(True, OSError("one"), OSError("two"), True, True, False, None)
    health = Health(ready=[Check("db", probe), Check("cache", Probe(None))], cache=0)
    for _ in range(8):
        await health.readiness()
    assert [record.getMessage() for record in log if record.name == "common.api"] == [
        "check db: failed: OSError: one",
        "check db is ok again",
        "check db: failed: it returned False",
        "check db is ok again",
    ]
