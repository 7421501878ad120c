# Misuse on purpose, and values known to be there:
# pyright: reportOperatorIssue=false, reportOptionalOperand=false

import asyncio
import math
import time

import pytest

import common.context._deadline as module
from common.context import (
    Context,
    DeadlineExceeded,
    bind,
    check_deadline,
    current,
    deadline,
    remaining,
)


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_without_a_deadline_nothing_is_said():
    assert remaining() is None
    check_deadline()


def test_the_time_left_shrinks_to_zero_and_not_below(clock):
    with deadline(10):
        assert remaining() == 10
        clock.now += 4
        assert remaining() == 6
        check_deadline()
        clock.now += 100
        assert remaining() == 0
        with pytest.raises(DeadlineExceeded):
            check_deadline()
    assert remaining() is None


def test_nested_deadlines_only_shrink(clock):
    with deadline(10):
        with deadline(60):
            assert remaining() == 10
        with deadline(1):
            assert remaining() == 1
            with deadline(5):
                assert remaining() == 1
        assert remaining() == 10


def test_a_deadline_is_left_behind_on_purpose_only(clock):
    with deadline(1), bind(deadline=None), deadline(60):
        assert remaining() == 60


def test_the_body_does_not_start_when_no_time_is_left(clock):
    with pytest.raises(DeadlineExceeded, match="no time is left"), deadline(0):
        pytest.fail("the body ran")
    with deadline(1):
        clock.now += 2
        with pytest.raises(DeadlineExceeded, match="no time is left"), deadline(60):
            pytest.fail("the body ran")


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf, -math.inf])
def test_seconds_that_make_no_sense_are_refused(seconds):
    with pytest.raises(ValueError, match="finite number of seconds"):
        deadline(seconds)


def test_the_error_is_a_timeout_that_is_not_retryable():
    error = DeadlineExceeded("x")
    assert isinstance(error, TimeoutError)
    assert (error.code, error.status, error.retryable) == ("DEADLINE_EXCEEDED", 504, False)


def test_one_deadline_serves_one_with_statement_at_a_time():
    once = deadline(10)
    with once, pytest.raises(RuntimeError, match="in use"), once:
        pass
    with once:
        assert remaining() is not None
    assert current() == Context()


def test_an_exception_of_the_body_goes_through_and_the_deadline_ends():
    with pytest.raises(KeyError), deadline(10):
        raise KeyError
    assert remaining() is None


async def test_async_with_cancels_the_body_in_time():
    cleaned = []

    async def work():
        async with deadline(0.01):
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append(True)

    with pytest.raises(DeadlineExceeded) as caught:
        await work()
    assert cleaned == [True]
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert remaining() is None
    await asyncio.sleep(0)  # nothing is left to be cancelled


async def test_async_with_leaves_a_body_in_time_alone():
    async with deadline(60):
        await asyncio.sleep(0)
        assert 0 < remaining() <= 60
    assert remaining() is None


async def test_the_outer_deadline_ends_the_inner_body():
    async def work():
        async with deadline(0.01), deadline(60):
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        await work()


async def test_an_outer_deadline_that_was_only_stated_is_enforced_by_an_inner_one():
    with deadline(0.01), pytest.raises(DeadlineExceeded):
        async with deadline(60):
            await asyncio.Event().wait()


async def test_a_timeout_of_the_body_stays_what_it_is():
    with pytest.raises(TimeoutError) as caught:
        async with deadline(60):
            raise TimeoutError("the body's own")
    assert type(caught.value) is TimeoutError


async def test_cancellation_from_outside_stays_a_cancellation():
    async def work():
        async with deadline(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_left_ends_before_the_body_starts():
    with pytest.raises(DeadlineExceeded, match="no time is left"):
        async with deadline(0):
            pytest.fail("the body ran")
    assert current() == Context()


async def test_tasks_and_threads_inherit_the_deadline():
    async def child():
        return remaining()

    async with deadline(60):
        assert await asyncio.create_task(child()) is not None
        assert await asyncio.to_thread(remaining) is not None


def test_async_with_needs_a_task_and_leaves_nothing_behind_without_one():
    coroutine = deadline(60).__aenter__()
    with pytest.raises(RuntimeError):
        coroutine.send(None)
    assert current() == Context()


def test_the_deadline_is_an_instant_of_the_monotonic_clock():
    with deadline(60):
        assert 0 < current().deadline - time.monotonic() <= 60
