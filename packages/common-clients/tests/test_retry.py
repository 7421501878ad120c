"""Repeating any coroutine function."""

import asyncio
import functools
from typing import Any

import pytest

from common.clients import (
    Backoff,
    Breaker,
    Bulkhead,
    Hedge,
    Retry,
    RetryBudget,
    hedge,
    instant_retries,
    retry,
)
from common.context import DeadlineExceeded, deadline, observe
from common.errors import (
    CircuitOpenError,
    NotFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
)

QUICK = Backoff(first=0.0001)


class Flaky:
    """Fails as it is told, then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, answer="answer"):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return answer


class Seen:
    def __init__(self):
        self.ended = []

    def on_start(self, op):
        pass

    def on_end(self, op):
        self.ended.append((op.name, op.outcome, dict(op.attributes)))


async def test_transient_failures_are_repeated_until_it_works():
    flaky = Flaky(ConnectionResetError(), ServiceUnavailableError())
    assert await retry(Retry(backoff=QUICK))(flaky)("yes") == "yes"
    assert flaky.calls == 3


async def test_the_last_error_is_raised_as_it_is_and_says_why_there_was_no_other_attempt():
    last = ConnectionResetError("third")
    flaky = Flaky(ConnectionResetError("first"), ConnectionResetError("second"), last)
    with pytest.raises(ConnectionResetError) as raised:
        await retry(Retry(backoff=QUICK))(flaky)()
    assert raised.value is last
    assert raised.value.__notes__ == ["not retried after attempt 3: 3 attempts are all there are"]
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "error",
    [ValueError(), NotFoundError("order"), CircuitOpenError("open", service_name="billing")],
    ids=lambda error: type(error).__name__,
)
async def test_what_will_fail_again_or_was_refused_here_is_not_repeated(error):
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await retry()(flaky)()
    assert flaky.calls == 1


@pytest.mark.parametrize(
    "on", [KeyError, (OSError, KeyError), lambda error: isinstance(error, KeyError)]
)
async def test_which_errors_are_repeated_can_be_said_by_type_or_function(on):
    flaky = Flaky(KeyError(), ValueError())
    with pytest.raises(ValueError):
        await retry(Retry(on=on, backoff=QUICK))(flaky)()
    assert flaky.calls == 2


async def test_a_server_that_says_when_is_not_asked_earlier():
    error = ServiceUnavailableError(retry_after=0.05)
    flaky = Flaky(error)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await retry(Retry(backoff=QUICK))(flaky)()
    assert loop.time() - began >= 0.05


async def test_who_asks_for_more_than_max_wait_is_not_asked_again():
    flaky = Flaky(ServiceUnavailableError(retry_after=31))
    with pytest.raises(ServiceUnavailableError) as raised:
        await retry()(flaky)()
    assert flaky.calls == 1
    assert "asks to wait 31 s, and max_wait is 30 s" in raised.value.__notes__[0]


async def test_a_wait_that_does_not_fit_the_deadline_is_not_begun():
    flaky = Flaky(ServiceUnavailableError(retry_after=20))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ServiceUnavailableError) as raised:
        async with deadline(15):
            await retry()(flaky)()
    assert loop.time() - began < 15
    assert "the deadline is in" in raised.value.__notes__[0]


async def test_an_exceeded_deadline_is_not_repeated():
    flaky = Flaky(DeadlineExceeded("gone"))
    with pytest.raises(DeadlineExceeded):
        await retry()(flaky)()
    assert flaky.calls == 1


async def test_many_failing_calls_share_one_budget():
    policy = Retry(backoff=QUICK, budget=RetryBudget(ratio=0.1, min_per_second=0))
    calls = 0

    @retry(policy)
    async def broken():
        nonlocal calls
        calls += 1
        raise ConnectionResetError

    results = await asyncio.gather(*(broken() for _ in range(1000)), return_exceptions=True)
    assert {type(result) for result in results} == {ConnectionResetError}
    assert 1000 < calls <= 1100
    notes = {result.__notes__[0].partition(": ")[2] for result in results}
    assert "the retry budget is spent" in notes


async def test_refused_calls_earn_no_retries():
    budget = RetryBudget(ratio=1, min_per_second=0)
    for _ in range(10):
        with pytest.raises(CircuitOpenError):
            await retry(Retry(budget=budget))(Flaky(CircuitOpenError("open")))()
    assert budget.balance == 0
    await retry(Retry(budget=budget))(Flaky())()
    assert budget.balance == 1


async def test_without_a_budget_every_call_has_all_its_attempts():
    policy = Retry(attempts=2, backoff=QUICK, budget=None)
    flaky = [Flaky(OSError()) for _ in range(200)]
    with pytest.raises(OSError):
        await retry(policy)(flaky[0])()
    policy = Retry(attempts=2, on=OSError, backoff=QUICK, budget=None)
    await asyncio.gather(*(retry(policy)(each)() for each in flaky[1:]))
    assert {each.calls for each in flaky[1:]} == {2}


@pytest.mark.parametrize("moment", ["attempt", "pause"])
async def test_cancellation_passes_through_at_once(moment):
    started = asyncio.Event()
    calls = 0

    @retry(Retry(backoff=Backoff(first=1000, maximum=1000), on=Exception))
    async def call():
        nonlocal calls
        calls += 1
        started.set()
        if moment == "attempt":
            await asyncio.sleep(1000)
        raise ConnectionResetError

    task = asyncio.create_task(call())
    await started.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == 1


async def test_repetitions_are_operations_that_say_why():
    seen = Seen()
    with observe(seen):
        await retry(Retry(backoff=QUICK))(Flaky(RequestTimeoutError(), ConnectionResetError()))()
    assert [(name, outcome) for name, outcome, _ in seen.ended] == [
        ("retry", "error"),
        ("retry", "ok"),
    ]
    assert [attributes["retry.attempt"] for _, _, attributes in seen.ended] == [2, 3]
    assert [attributes["retry.reason"] for _, _, attributes in seen.ended] == [
        "TIMEOUT",
        "ConnectionResetError",
    ]


async def test_the_switch_for_tests_takes_waits_and_budgets_away():
    policy = Retry(
        backoff=Backoff(first=1e6, maximum=1e6), budget=RetryBudget(ratio=0, min_per_second=0)
    )
    with instant_retries():
        assert await retry(policy)(Flaky(ServiceUnavailableError(retry_after=9999)))() == "answer"
        with instant_retries(attempts=1), pytest.raises(ConnectionResetError):
            await retry(policy)(Flaky(ConnectionResetError()))()
        assert await retry(policy)(Flaky(ConnectionResetError()))() == "answer"
    flaky = Flaky(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await retry(policy)(flaky)()
    assert flaky.calls == 1


def test_pauses_are_fully_jittered_and_bounded():
    backoff = Backoff(first=1, maximum=8, factor=2)
    for failed, limit in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (100_000, 8)):
        pauses = [backoff.seconds(failed) for _ in range(500)]
        assert 0 <= min(pauses) < limit * 0.1
        assert limit * 0.9 < max(pauses) <= limit


async def test_the_name_and_signature_of_what_is_decorated_stay():
    @retry()
    async def named(number: int) -> int:
        """Say it."""
        return number

    assert (named.__name__, named.__doc__) == ("named", "Say it.")
    assert await named(number=3) == 3
    assert await retry()(functools.partial(named, 4))() == 4


async def test_an_error_raised_again_and_again_does_not_collect_notes():
    error = ConnectionResetError()

    @retry(Retry(attempts=2, backoff=QUICK, budget=None))
    async def always():
        raise error

    for _ in range(5):
        with pytest.raises(ConnectionResetError):
            await always()
    assert len(error.__notes__) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": True},
        {"max_wait": -1},
        {"attempts": 2.0},
        {"backoff": 0.1},
        {"budget": 0.1},
        {"budget": RetryBudget},
    ],
    ids=str,
)
def test_misconfiguration_names_the_field(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Retry(**options)


async def _coroutine(error):
    return True


@pytest.mark.parametrize(
    "on", [_coroutine, "OSError", BaseException, ()], ids=["coroutine", "text", "base", "none"]
)
def test_a_condition_that_can_never_work_is_refused(on):
    with pytest.raises(TypeError, match="on="):
        Retry(on=on)


def test_backoff_refuses_a_maximum_below_its_first_pause():
    with pytest.raises(ValueError, match="maximum"):
        Backoff(first=2, maximum=1)


async def test_retry_needs_its_parentheses_and_something_that_can_be_repeated():
    async def stream():
        yield 1

    with pytest.raises(TypeError, match=r"@retry\(\)"):
        retry(_coroutine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for decorate in (retry(), hedge(Hedge(after=1)), Breaker("b"), Bulkhead("b", limit=1)):
        with pytest.raises(TypeError, match="generator"):
            decorate(stream)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


async def test_a_plain_function_is_refused_where_it_is_decorated():
    def plain():
        return 1

    @functools.wraps(plain)
    def wrapper():
        return plain()

    for decorate in (retry(), hedge(Hedge(after=1)), Breaker("b"), Bulkhead("b", limit=1)):
        for function in (plain, wrapper):
            with pytest.raises(
                TypeError, match=r"plain is no coroutine function: write 'async def'"
            ):
                decorate(function)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


async def test_whatever_returns_an_awaitable_is_repeated():
    class Store:
        def get(self, number):  # as the methods of redis-py are
            return _coroutine(number)

    @functools.wraps(_coroutine)
    def wrapper(number):
        return _coroutine(number)

    functions: list[Any] = [Store().get, wrapper, functools.partial(_coroutine)]
    for function in (*functions, lambda number: _coroutine(str(number))):
        assert await retry()(function)(1) is True


async def test_a_repetition_that_is_refused_tells_what_went_wrong_before():
    first = ConnectionResetError()
    with pytest.raises(CircuitOpenError) as raised:
        await retry(Retry(backoff=QUICK))(Flaky(first, CircuitOpenError("open")))()
    assert raised.value.__cause__ is first
