import asyncio
import concurrent.futures
import contextvars
import gc
import sys
import threading
import time
import weakref

import pytest

import common.context._operation as module
from common.context import (
    KINDS,
    DeadlineExceeded,
    bind,
    current,
    current_operation,
    deadline,
    observe,
    observer_failures,
    operation,
)


class Recorder:
    """Remembers what it was told, with the state at that moment."""

    def __init__(self, name="", log=None):
        self.name = name
        self.log = [] if log is None else log
        self.ops = []

    def on_start(self, op):
        assert op.outcome is None
        assert op.duration is None
        self.log.append(("start", self.name or op.name))

    def on_end(self, op):
        self.ops.append(op)
        self.log.append(("end", self.name or op.name))
        self.error = op.error

    @property
    def last(self):
        return self.ops[-1]


@pytest.fixture
def recorder():
    with observe(Recorder()) as observation:
        yield observation.observer


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    assert current_operation() is None
    with operation("internal", "x") as op:
        assert not op.recording, "a test left its observer behind"


class Coded(Exception):  # noqa: N818
    def __init__(self, code):
        self.code = code


class Broken(Exception):  # noqa: N818
    @property
    def code(self):
        raise RuntimeError


# What is recorded


def test_success_is_recorded_with_its_attributes(recorder):
    with operation("http.client", "GET", {"http.request.method": "GET"}, retries=0) as op:
        assert op.recording
        op.set({"http.response.status_code": 200}, retries=1)
        op.set(cached=False)
    assert recorder.ops == [op]
    assert (op.kind, op.name, op.outcome) == ("http.client", "GET", "ok")
    assert op.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "retries": 1,
        "cached": False,
    }
    assert (op.error, op.error_type, op.error_code) == (None, None, None)


def test_the_mapping_given_is_not_changed(recorder):
    mine = {"a": 1}
    with operation("db", "select", mine) as op:
        op.set(b=2)
    assert mine == {"a": 1}


def test_attributes_may_be_called_kind_and_name(recorder):
    with operation("db", "select", kind="x", name="y") as op:
        op.set(attributes=1)
    assert op.attributes == {"kind": "x", "name": "y", "attributes": 1}


def test_the_duration_is_monotonic_and_the_start_on_the_wall_clock(recorder, monkeypatch):
    class Clock:
        now, wall = 50.0, 1_700_000_000.0

        def perf_counter(self):
            return self.now

        def time(self):
            return self.wall

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with operation("db", "select") as op:
        clock.now += 1.5
        clock.wall -= 3600
    assert op.duration == 1.5
    assert op.start_time == 1_700_000_000.0


@pytest.mark.parametrize(
    ("error", "outcome", "error_type", "code"),
    [
        (KeyError("a"), "error", "KeyError", None),
        (Coded("ORDER_CLOSED"), "error", f"{__name__}.Coded", "ORDER_CLOSED"),
        (Coded(7), "error", f"{__name__}.Coded", None),
        (Coded("a b\n"), "error", f"{__name__}.Coded", None),
        (Coded("x" * 1000), "error", f"{__name__}.Coded", None),
        (Broken(), "error", f"{__name__}.Broken", None),
        (
            DeadlineExceeded("x"),
            "error",
            "common.context._deadline.DeadlineExceeded",
            "DEADLINE_EXCEEDED",
        ),
        (StopIteration(), "error", "StopIteration", None),
        (ExceptionGroup("g", [KeyError()]), "error", "ExceptionGroup", None),
        (
            BaseExceptionGroup("g", [KeyError(), asyncio.CancelledError()]),
            "error",
            "BaseExceptionGroup",
            None,
        ),
        (asyncio.CancelledError(), "cancelled", "asyncio.exceptions.CancelledError", None),
        (
            concurrent.futures.CancelledError(),
            "cancelled",
            "concurrent.futures._base.CancelledError",
            None,
        ),
        (GeneratorExit(), "cancelled", "GeneratorExit", None),
        (KeyboardInterrupt(), "cancelled", "KeyboardInterrupt", None),
        (SystemExit(0), "cancelled", "SystemExit", None),
        (
            BaseExceptionGroup("g", [asyncio.CancelledError(), KeyboardInterrupt()]),
            "cancelled",
            "BaseExceptionGroup",
            None,
        ),
    ],
)
def test_an_exception_goes_through_and_decides_the_outcome(
    recorder, error, outcome, error_type, code
):
    with pytest.raises(type(error)) as caught, operation("db", "select") as op:
        raise error
    assert caught.value is error
    assert (op.outcome, op.error_type, op.error_code) == (outcome, error_type, code)
    assert recorder.error is error
    assert op.error is None


async def test_a_cancelled_task_is_neither_success_nor_failure(recorder):
    async def work():
        async with operation("lock", "acquire"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.last.outcome == "cancelled"


async def test_a_deadline_cancels_what_is_inside_and_fails_what_is_around(recorder):
    async def work():
        async with operation("http.server", "outer"), deadline(0.01), operation("db", "inner"):
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        await work()
    outcomes = {op.name: (op.outcome, op.error_code) for op in recorder.ops}
    assert outcomes == {"inner": ("cancelled", None), "outer": ("error", "DEADLINE_EXCEEDED")}


async def test_a_closed_generator_is_a_cancellation(recorder):
    async def generator():
        async with operation("messaging.receive", "orders"):
            yield 1

    running = generator()
    await anext(running)
    await running.aclose()
    assert recorder.last.outcome == "cancelled"


def test_failure_without_an_exception(recorder):
    with operation("http.server", "GET /orders") as op:
        op.fail("UPSTREAM_ERROR")
    assert (op.outcome, op.error_code, op.error_type) == ("error", "UPSTREAM_ERROR", None)
    handled = Coded("HANDLED")
    with operation("http.server", "GET /orders") as op:
        op.fail(error=handled)
    assert (op.outcome, op.error_code) == ("error", "HANDLED")
    assert op.error_type == f"{__name__}.Coded"
    assert recorder.error is handled


@pytest.mark.parametrize("code", ["a b", "line\nbreak", "", "x" * 129, 503])
def test_a_failures_code_is_bounded_as_that_of_an_exception(recorder, code):
    with operation("http.server", "GET /orders") as op:
        op.fail(code)
    assert (op.outcome, op.error_code) == ("error", None)
    with operation("http.server", "GET /orders") as op:
        op.fail(code, error=Coded("HANDLED"))
    assert op.error_code == "HANDLED"


def test_cancellation_without_an_exception(recorder):
    with operation("http.server", "GET /orders") as op:
        op.cancel()
    assert op.outcome == "cancelled"


@pytest.mark.parametrize(
    ("error", "recorded"),
    [(Coded("LATER"), ("error", "LATER")), (asyncio.CancelledError(), ("cancelled", None))],
)
def test_an_exception_counts_more_than_what_was_said_before(recorder, error, recorded):
    def work():
        with operation("db", "select") as op:
            op.fail("EARLIER")
            raise error

    with pytest.raises(type(error)):
        work()
    assert (recorder.last.outcome, recorder.last.error_code) == recorded


def test_the_context_at_the_start_is_kept(recorder):
    with bind(tenant="a"), operation("db", "select") as op, bind(tenant="b"):
        pass
    assert op.context.tenant == "a"


def test_a_finished_operation_keeps_no_exception_alive(recorder):
    def fail():
        error = Coded("X")
        with pytest.raises(Coded), operation("db", "select"):
            raise error
        return weakref.ref(error)

    reference = fail()
    recorder.error = None
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("kind", ["", "http.sever", "DB", "messaging"])
def test_an_unknown_kind_is_refused_with_and_without_observers(kind):
    with pytest.raises(ValueError, match="unknown kind of operation"):
        operation(kind, "x")


def test_all_kinds_work(recorder):
    for kind in KINDS:
        with operation(kind, "x"):
            pass
    assert [op.kind for op in recorder.ops] == list(KINDS) == sorted(KINDS)


def test_an_operation_is_used_once(recorder):
    op = operation("db", "select")
    with op, pytest.raises(RuntimeError, match="used already"), op:
        pass
    with pytest.raises(RuntimeError, match="used already"), op:
        pass


# Parents


def test_operations_know_their_parents(recorder):
    with operation("http.server", "outer") as outer:
        assert current_operation() is outer
        with operation("db", "inner") as inner:
            assert current_operation() is inner
        assert current_operation() is outer
    assert (outer.parent, inner.parent) == (None, outer)
    assert current_operation() is None


async def test_tasks_and_threads_have_the_right_parents(recorder):
    async def child(name):
        async with operation("db", name) as op:
            await asyncio.sleep(0)
            with operation("cache", f"in {name}") as inner:
                await asyncio.sleep(0)
            assert inner.parent is op
            return op

    def in_thread():
        with operation("db", "thread") as op:
            return op

    async with operation("http.server", "outer") as outer:
        children = await asyncio.gather(*(child(str(n)) for n in range(10)))
        thread = await asyncio.to_thread(in_thread)
    assert all(op.parent is outer for op in [*children, thread])


async def test_a_generator_closed_in_another_context_ends_its_operation(recorder):
    async def generator():
        with operation("db", "cursor"):
            yield

    running = generator()
    await asyncio.create_task(anext(running))
    assert current_operation() is None
    await running.aclose()
    assert recorder.last.outcome == "cancelled"
    assert current_operation() is None


# Observers


def test_without_observers_nothing_is_kept():
    with operation("db", "select", a=1) as op, bind(tenant="x"):
        op.set(b=2)
        op.attributes["c"] = 3
        op.fail("X")
        op.cancel()
        assert current_operation() is None
        assert op.context == current()
    assert not op.recording
    assert (op.attributes, op.outcome, op.duration, op.error_code) == ({}, None, None, None)
    with pytest.raises(KeyError), operation("db", "select"):
        raise KeyError


async def test_without_observers_async_use_works_too():
    async with operation("db", "select") as op:
        assert not op.recording
    with pytest.raises(KeyError):
        async with operation("db", "select"):
            raise KeyError


def test_starts_in_order_of_registration_and_ends_in_reverse():
    log = []
    first, second = Recorder("first", log), Recorder("second", log)
    with observe(first), observe(second), operation("db", "select"):
        log.append("body")
    assert log == [
        ("start", "first"),
        ("start", "second"),
        "body",
        ("end", "second"),
        ("end", "first"),
    ]


def test_an_observer_that_comes_in_the_middle_sees_no_end_without_a_start():
    early, late = Recorder(), Recorder()
    with operation("db", "unobserved"):
        first = observe(early)
        with operation("db", "a"):
            second = observe(late)
            with operation("db", "b"):
                pass
    first.close()
    second.close()
    assert early.log == [("start", "a"), ("start", "b"), ("end", "b"), ("end", "a")]
    assert late.log == [("start", "b"), ("end", "b")]


def test_an_observer_that_leaves_in_the_middle_still_sees_the_end():
    recorder = Recorder()
    observation = observe(recorder)
    with operation("db", "a"):
        observation.close()
        observation.close()
        with operation("db", "b"):
            pass
    assert recorder.log == [("start", "a"), ("end", "a")]


@pytest.mark.parametrize(
    "raised",
    [
        ValueError,
        asyncio.CancelledError,
        GeneratorExit,
        StopIteration,
        RecursionError,
        BaseException,
    ],
)
@pytest.mark.parametrize("when", ["on_start", "on_end"])
def test_an_observer_that_raises_is_counted_and_ignored(raised, when):
    class Bad(Recorder):
        pass

    def fail(self, op):
        self.log.append(when)
        raise raised

    setattr(Bad, when, fail)
    before, bad, good, last = observer_failures(), Bad(), Recorder(), Recorder()
    with observe(good), observe(bad) as observation, observe(last):
        with operation("db", "a"):
            done = True
        with pytest.raises(KeyError), operation("db", "b"):
            raise KeyError
    assert done
    assert observation.failures == 2
    assert observer_failures() == before + 2
    for other in (good, last):
        assert other.log == [("start", "a"), ("end", "a"), ("start", "b"), ("end", "b")]
    # Who failed to take the start is not told of the end.
    assert bad.log.count("on_start") + bad.log.count(("start", "a")) == (
        2 if when == "on_start" else 1
    )
    assert ("end", "a") not in bad.log


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("when", ["on_start", "on_end"])
def test_an_interrupt_in_an_observer_is_not_swallowed(interrupt, when):
    class Interrupted(Recorder):
        pass

    def fail(self, op):
        raise interrupt

    setattr(Interrupted, when, fail)
    before = observer_failures()
    with observe(Interrupted()), pytest.raises(interrupt), operation("db", "a"):
        pass
    assert observer_failures() == before


def test_operations_of_an_observer_are_not_observed():
    class Chatty(Recorder):
        def on_start(self, op):
            super().on_start(op)
            with operation("db", "log") as mine:
                assert not mine.recording
                assert current_operation() is None

        def on_end(self, op):
            super().on_end(op)
            with operation("db", "log"):
                pass

    chatty = Chatty()
    with observe(chatty) as observation, operation("db", "a"), operation("cache", "b"):
        pass
    assert chatty.log == [("start", "a"), ("start", "b"), ("end", "b"), ("end", "a")]
    assert observation.failures == 0


async def test_context_variables_set_by_an_observer_hold_for_the_body():
    class Tracer:
        def on_start(self, op):
            op.set(bound=bind(user=f"in {op.name}"))
            op.attributes["bound"].__enter__()

        def on_end(self, op):
            op.attributes["bound"].__exit__(None, None, None)

    with observe(Tracer()):
        async with operation("db", "a"):
            assert current().user == "in a"
            with operation("db", "b"):
                assert current().user == "in b"
            assert current().user == "in a"
    assert current().user is None


def test_an_observer_cannot_be_registered_twice_at_a_time():
    recorder = Recorder()
    with observe(recorder), pytest.raises(ValueError, match="observes already"):
        observe(recorder)
    with observe(recorder), operation("db", "a"):
        pass
    assert len(recorder.ops) == 1


def test_observers_that_come_and_go_in_many_threads_at_once_are_all_kept():
    start = threading.Barrier(8)

    def register(_):
        start.wait()
        pairs = [(observe(each), each) for each in (Recorder() for _ in range(50))]
        for observation, _recorder in pairs[::2]:
            observation.close()
        return pairs[1::2]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            kept = [each for part in threads.map(register, range(8)) for each in part]
    finally:
        sys.setswitchinterval(interval)
    try:
        with operation("db", "a"):
            pass
        assert [len(recorder.ops) for _, recorder in kept] == [1] * 200
    finally:
        for observation, _ in kept:
            observation.close()


async def test_a_task_that_an_observer_starts_is_unobserved_for_its_whole_life():
    tasks = []

    async def work():
        await asyncio.sleep(0)
        with operation("db", "mine") as op:
            return op.recording

    class Starter(Recorder):
        def on_start(self, op):
            tasks.append(asyncio.create_task(work()))
            tasks.append(asyncio.create_task(work(), context=contextvars.Context()))
            # Only for the first: the second task's operation would start others without end.
            self.on_start = lambda op: None

    with observe(Starter()):
        with operation("db", "a"):
            pass
        assert await asyncio.gather(*tasks) == [False, True]


class Incomplete:
    def on_start(self, op):
        pass


class Asynchronous:
    async def on_start(self, op):
        pass

    def on_end(self, op):
        pass


@pytest.mark.parametrize("wrong", [None, object(), Incomplete(), Asynchronous()])
def test_what_cannot_observe_is_refused(wrong):
    with pytest.raises(TypeError, match="must be a plain function"):
        observe(wrong)


async def test_many_tasks_and_threads_at_once_are_counted_right():
    started, ended = [], []  # an append is whole, whichever thread comes in between

    class Counter:
        def on_start(self, op):
            started.append(op)

        def on_end(self, op):
            ended.append(op.outcome)

    async def task():
        async with operation("db", "task"):
            await asyncio.sleep(0)

    def thread():
        for _ in range(100):
            with operation("db", "thread"):
                time.sleep(0)

    with observe(Counter()):
        await asyncio.gather(
            *(task() for _ in range(200)), *(asyncio.to_thread(thread) for _ in range(4))
        )
    assert (len(started), ended) == (600, ["ok"] * 600)
