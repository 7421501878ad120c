"""The retry budget, on a clock that the test moves."""

import random

import pytest

from common.clients import RetryBudget
from common.clients._window import Window


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_retries_are_a_share_of_the_calls():
    budget = RetryBudget(ratio=0.1, min_per_second=0, clock=Clock())
    for _ in range(100):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(100)) == 10


def test_a_reserve_is_there_without_any_call():
    budget = RetryBudget(ratio=0.1, min_per_second=2, window=5, clock=Clock())
    assert budget.balance == 10
    assert sum(budget.withdraw() for _ in range(100)) == 10
    assert budget.balance == 0


def test_calls_and_retries_are_forgotten_after_the_window():
    clock = Clock()
    budget = RetryBudget(ratio=1, min_per_second=0, window=10, clock=clock)
    budget.deposit()
    clock.now += 8.9
    assert budget.balance == 1
    clock.now += 1.2
    assert budget.balance == 0


def test_spent_retries_come_back_after_the_window():
    clock = Clock()
    budget = RetryBudget(ratio=0, min_per_second=1, window=10, clock=clock)
    assert sum(budget.withdraw() for _ in range(20)) == 10
    clock.now += 10.1
    assert sum(budget.withdraw() for _ in range(20)) == 10


def test_the_bound_holds_over_any_history():
    seed = random.Random(7)
    clock = Clock()
    budget = RetryBudget(ratio=0.2, min_per_second=0.5, window=10, clock=clock)
    history = []
    for _ in range(5_000):
        clock.now += seed.expovariate(20)
        budget.deposit()
        history.append((clock.now, 1, 0))
        if budget.withdraw():
            history.append((clock.now, 0, 1))
    retries = sum(retried for _, _, retried in history)
    calls = sum(called for _, called, _ in history)
    assert retries > 0.15 * calls  # it is used, not only held
    # Buckets are forgotten whole: what nine tenths of a window hold is within the rule for all
    # of it, whenever a retry was allowed.
    for number, (at, _, retried) in enumerate(history):
        if retried:
            recent = history[max(0, number - 500) : number + 1]
            calls = sum(called for when, called, _ in recent if when > at - 10)
            assert sum(once for when, _, once in recent if when > at - 9) <= 0.2 * calls + 5


def test_a_clock_that_stands_still_for_long_costs_no_loop_over_the_past():
    clock = Clock()
    window = Window(1.0, 1, clock)
    window.add(0)
    clock.now += 1e12
    assert window.read() == [0]


@pytest.mark.parametrize(
    ("field", "value"), [("ratio", -1), ("min_per_second", float("nan")), ("window", 0)]
)
def test_misconfiguration_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        RetryBudget(**{field: value})
