"""A second try beside a slow first one."""

import asyncio

import pytest

from common.clients import Hedge, RetryBudget, hedge
from common.context import observe


class Slow:
    """Each call waits for its turn to be told how to end."""

    def __init__(self):
        self.turns: list[asyncio.Future[str]] = []
        self.cancelled = 0
        self.called = asyncio.Semaphore(0)

    async def __call__(self):
        turn = asyncio.get_running_loop().create_future()
        self.turns.append(turn)
        self.called.release()
        try:
            return await turn
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def begun(slow, policy, tries=2):
    task = asyncio.create_task(hedge(policy)(slow)())
    for _ in range(tries):
        await slow.called.acquire()
    return task


async def others():
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_quick_answer_needs_no_second_try():
    calls = 0

    @hedge(Hedge(after=60))
    async def quick():
        nonlocal calls
        calls += 1
        return "answer"

    assert await quick() == "answer"
    assert calls == 1


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_answer_wins_and_the_other_try_is_cancelled(winner):
    slow = Slow()
    task = await begun(slow, Hedge(after=0.001))
    slow.turns[winner].set_result("answer")
    assert await task == "answer"
    assert slow.cancelled == 1
    assert await others() == set()


async def test_a_first_try_that_fails_early_just_fails():
    slow = Slow()
    task = await begun(slow, Hedge(after=60), tries=1)
    slow.turns[0].set_exception(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await task
    assert len(slow.turns) == 1


@pytest.mark.parametrize("failing", [0, 1])
async def test_when_one_of_two_fails_the_other_is_awaited(failing):
    slow = Slow()
    task = await begun(slow, Hedge(after=0.001))
    slow.turns[failing].set_exception(ConnectionResetError())
    await asyncio.sleep(0)
    slow.turns[1 - failing].set_result("answer")
    assert await task == "answer"


async def test_when_both_fail_the_error_of_the_first_is_raised():
    slow = Slow()
    task = await begun(slow, Hedge(after=0.001))
    slow.turns[1].set_exception(ValueError())
    slow.turns[0].set_exception(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await task
    assert await others() == set()


async def test_cancelling_the_caller_cancels_both_tries():
    slow = Slow()
    task = await begun(slow, Hedge(after=0.001))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.cancelled == 2
    assert await others() == set()


async def test_second_tries_stay_within_the_budget():
    budget = RetryBudget(ratio=0.1, min_per_second=0)
    policy = Hedge(after=0, budget=budget)
    calls = 0

    @hedge(policy)
    async def slow():
        nonlocal calls
        calls += 1
        for _ in range(20):
            await asyncio.sleep(0.001)

    await asyncio.gather(*(slow() for _ in range(100)))
    assert 100 < calls <= 110


async def test_a_measured_delay_is_the_percentile_of_the_last_calls():
    policy = Hedge(percentile=0.9)
    assert policy.delay is None
    for milliseconds in range(1, 20):
        policy.measured(milliseconds / 1000)
    assert policy.delay is None
    policy.measured(0.020)
    assert policy.delay == 0.018
    for _ in range(400):
        policy.measured(1.0)
    assert policy.delay == 1.0
    assert len(policy._durations) == 200


async def test_second_tries_are_operations():
    names = []

    class Observer:
        def on_start(self, op):
            names.append(op.name)

        def on_end(self, op):
            pass

    slow = Slow()
    with observe(Observer()):
        task = await begun(slow, Hedge(after=0.001))
        slow.turns[0].set_result("answer")
        await task
    assert names == ["hedge"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "after"),
        ({"after": 1, "percentile": 0.5}, "percentile"),
        ({"after": -1}, "after"),
        ({"percentile": 1.5}, "percentile"),
        ({"after": 1, "budget": 0.1}, "budget is float: give RetryBudget"),
    ],
)
def test_misconfiguration_names_the_field(options, field):
    with pytest.raises(ValueError, match=field):
        Hedge(**options)
