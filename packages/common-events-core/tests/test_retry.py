import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events.core import Constant, Exponential, Retry, RetryLater


def test_pauses_grow_up_to_a_bound():
    exponential = Exponential(1, 300)
    assert [exponential.seconds(at) for at in range(1, 11)] == [
        *(1, 2, 4, 8, 16, 32, 64, 128, 256, 300)
    ]
    assert Exponential(0.5, 10, factor=3).seconds(2) == 1.5
    assert exponential.seconds(10**9) == 300


@given(attempt=st.integers(1, 10_000), first=st.floats(0, 100))
def test_full_jitter_stays_within_the_pause(attempt, first):
    backoff = Exponential(first, 300)
    delay = Retry(backoff=backoff).delay(attempt)
    assert 0 <= delay <= backoff.seconds(attempt)


def test_jitter_spreads_and_can_be_switched_off():
    assert len({Retry(backoff=Constant(10)).delay(1) for _ in range(20)}) > 10
    assert {Retry(backoff=Constant(10), jitter=False).delay(1) for _ in range(20)} == {10.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(attempts=0), "at least 1"),
        (lambda: Constant(-1), "pause -1: give seconds"),
        (lambda: Constant(float("nan")), "pause nan"),
        (lambda: Exponential(10, 5), "less than first"),
        (lambda: Exponential(1, float("inf")), "maximum inf"),
        (lambda: Exponential(factor=0.5), "factor 0.5"),
        (lambda: RetryLater(-1), "give seconds from 0"),
        (lambda: RetryLater(1e9), "schedule a command"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
