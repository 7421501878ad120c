"""The circuit breaker, on a clock that the test moves."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest

from common.clients import Breaker, BulkheadFullError, Retry, retry
from common.context import DeadlineExceeded, bind, deadline, observe
from common.errors import CircuitOpenError, NotFoundError, ServiceUnavailableError

LONGEST = 1.21  # by which a first opening may exceed open_for


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def fail(breaker, error: Exception | None = None):
    error = error or ConnectionResetError()
    with suppress(type(error)):
        async with breaker:
            raise error


async def succeed(breaker):
    async with breaker:
        pass


def seconds_of(error):
    assert error.retry_after is not None
    return error.retry_after


async def opened(clock, **options):
    breaker = Breaker("billing", minimum_calls=2, clock=clock, **options)
    await fail(breaker)
    await fail(breaker)
    assert breaker.state == "open"
    return breaker


async def half_open(clock, **options):
    breaker = await opened(clock, **options)
    clock.now += 5 * LONGEST
    assert breaker.state == "half_open"
    return breaker


async def test_it_opens_at_the_ratio_of_failures_and_not_before(clock):
    breaker = Breaker("billing", failure_ratio=0.5, minimum_calls=10, clock=clock)
    for _ in range(5):
        await succeed(breaker)
    for _ in range(4):
        await fail(breaker)
    assert breaker.state == "closed"
    await fail(breaker)
    assert breaker.state == "open"


async def test_few_calls_never_open_it(clock):
    breaker = Breaker("billing", minimum_calls=20, clock=clock)
    for _ in range(19):
        await fail(breaker)
    assert breaker.state == "closed"


async def test_failures_are_forgotten_after_the_window(clock):
    breaker = Breaker("billing", minimum_calls=4, window=10, clock=clock)
    for _ in range(3):
        await fail(breaker)
    clock.now += 10.5
    await fail(breaker)
    assert breaker.state == "closed"
    assert breaker.snapshot().failures == 1


async def test_an_open_circuit_says_who_until_when_and_how_many(clock):
    breaker = await opened(clock)
    entered = False
    with pytest.raises(CircuitOpenError) as raised:
        async with breaker:
            entered = True
    assert not entered
    error = raised.value
    assert (error.service_name, error.failure_count) == ("billing", 2)
    assert error.retry_after == pytest.approx(5, rel=0.21)
    assert error.open_until
    assert breaker.snapshot().open_until is not None


async def test_slow_calls_open_it(clock):
    breaker = Breaker("billing", minimum_calls=2, slow_call=1, slow_ratio=0.5, clock=clock)
    await succeed(breaker)
    async with breaker:
        clock.now += 1
    assert breaker.state == "open"


async def test_one_good_probe_closes_it_and_the_past_is_forgotten(clock):
    breaker = await half_open(clock)
    await succeed(breaker)
    assert breaker.state == "closed"
    assert breaker.snapshot().calls == 0


async def test_a_failed_probe_opens_it_for_longer_up_to_the_maximum(clock):
    breaker = await opened(clock, open_for=5, open_maximum=20)
    for lasting in (5, 10, 20, 20, 20):
        before = clock.now
        with pytest.raises(CircuitOpenError) as raised:
            breaker.check()
        assert 0.8 * lasting <= seconds_of(raised.value) <= 1.2 * lasting
        clock.now = before + 0.79 * lasting
        assert breaker.state == "open"
        clock.now = before + 1.21 * lasting
        assert breaker.state == "half_open"
        await fail(breaker)
    clock.now += 25
    await succeed(breaker)
    await fail(breaker)
    await fail(breaker)
    with pytest.raises(CircuitOpenError) as raised:
        breaker.check()
    assert seconds_of(raised.value) <= 6  # after a recovery it starts over


async def test_many_instances_do_not_probe_at_once(clock):
    waits = []
    for _ in range(50):
        with pytest.raises(CircuitOpenError) as raised:
            (await opened(clock)).check()
        waits.append(seconds_of(raised.value))
    assert min(waits) < 5 < max(waits)
    assert len(set(waits)) > 40


async def test_a_slow_probe_is_no_recovery(clock):
    breaker = await half_open(clock, slow_call=1)
    async with breaker:
        clock.now += 1
    assert breaker.state == "open"


@pytest.mark.parametrize("probes", [1, 3])
async def test_of_fifty_callers_only_the_probes_get_through(clock, probes):
    breaker = await half_open(clock, probes=probes)
    inside = 0
    release = asyncio.Event()

    async def call():
        nonlocal inside
        async with breaker:
            inside += 1
            await release.wait()

    tasks = [asyncio.create_task(call()) for _ in range(50)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert inside == probes
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, CircuitOpenError)]
    assert (len(refused), results.count(None)) == (50 - probes, probes)
    assert breaker.state == "closed"


async def test_cancelled_calls_are_neither_success_nor_failure(clock):
    breaker = Breaker("billing", minimum_calls=2, clock=clock)
    for _ in range(50):
        task = asyncio.create_task(_forever(breaker))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.snapshot().calls == 0
    assert breaker._running == {}


async def test_a_cancelled_probe_gives_its_place_back(clock):
    breaker = await half_open(clock)
    for _ in range(10):
        task = asyncio.create_task(_forever(breaker))
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpenError):
            breaker.check()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.state == "half_open"
    await succeed(breaker)
    assert breaker.state == "closed"


async def _forever(breaker):
    async with breaker:
        await asyncio.Event().wait()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, GeneratorExit])
async def test_an_interrupted_probe_gives_its_place_back(clock, interrupt):
    breaker = await half_open(clock)
    with pytest.raises(interrupt):
        async with breaker:
            raise interrupt
    await succeed(breaker)
    assert breaker.state == "closed"


async def test_results_from_before_a_change_of_state_do_not_count(clock):
    breaker = Breaker("billing", minimum_calls=2, clock=clock)
    finish = asyncio.Event()

    async def old(error):
        async with breaker:
            await finish.wait()
            if error:
                raise error

    tasks = [asyncio.create_task(old(error)) for error in (None, ConnectionResetError())]
    await asyncio.sleep(0)
    await fail(breaker)
    await fail(breaker)
    clock.now += 5 * LONGEST
    assert breaker.state == "half_open"
    finish.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert breaker.state == "half_open"  # the old success did not close, the old failure not open
    async with breaker:
        with pytest.raises(CircuitOpenError):
            breaker.check()  # and neither gave back a probe that it never took


async def test_who_answers_not_found_is_alive(clock):
    breaker = Breaker("billing", minimum_calls=2, clock=clock)
    for _ in range(10):
        await fail(breaker, NotFoundError("no such order"))
    assert breaker.state == "closed"
    assert breaker.snapshot().calls == 10
    await half_closes_on_not_found(clock)


async def half_closes_on_not_found(clock):
    breaker = await half_open(clock)
    await fail(breaker, NotFoundError("no such order"))
    assert breaker.state == "closed"


async def test_refusals_of_this_side_say_nothing_about_the_other(clock):
    breaker = await half_open(clock)
    await fail(breaker, BulkheadFullError("full"))
    assert breaker.state == "half_open"
    await succeed(breaker)


async def test_which_errors_count_can_be_said(clock):
    breaker = Breaker(
        "b", minimum_calls=2, clock=clock, counts=lambda error: isinstance(error, KeyError)
    )
    await fail(breaker, OSError())
    await fail(breaker, OSError())
    assert breaker.state == "closed"
    await fail(breaker, KeyError())
    await fail(breaker, KeyError())
    assert breaker.state == "open"


async def test_callers_with_little_time_do_not_open_it_for_all_others(clock):
    breaker = Breaker("billing", minimum_calls=2, clock=clock)
    for _ in range(10):
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.001), breaker:
                await asyncio.sleep(10)
    assert breaker.snapshot().calls == 0


async def test_who_lets_patient_callers_run_into_their_deadline_is_not_well(clock):
    breaker = Breaker("billing", minimum_calls=2, patience=1, clock=clock)
    for error in (DeadlineExceeded("late"), asyncio.CancelledError()):
        with bind(deadline=time.monotonic() - 1), suppress(type(error)):
            async with breaker:
                clock.now += 1
                raise error
    assert breaker.state == "open"


async def test_nested_and_concurrent_calls_are_kept_apart(clock):
    breaker = Breaker("billing", minimum_calls=1, slow_call=5, slow_ratio=0.9, clock=clock)
    async with breaker:
        clock.now += 4
        async with breaker:
            clock.now += 1  # the outer one took 5 s, this one 1 s
    assert breaker.snapshot().slow_calls == 1
    assert breaker._running == {}


async def test_a_body_that_ends_in_another_task_gives_its_place_back(clock):
    breaker = await half_open(clock)

    async def stream():
        async with breaker:
            yield 1
            yield 2

    chunks = stream()
    assert await anext(chunks) == 1
    await asyncio.create_task(chunks.aclose())
    assert breaker._running == {}
    await succeed(breaker)
    assert breaker.state == "closed"


async def test_changes_of_state_are_operations(clock):
    seen = []

    class Observer:
        def on_start(self, op):
            pass

        def on_end(self, op):
            seen.append(
                (op.name, op.attributes["breaker.previous"], op.attributes["breaker.state"])
            )

    with observe(Observer()):
        breaker = await half_open(clock)
        await succeed(breaker)
    assert seen == [
        ("breaker", "closed", "open"),
        ("breaker", "open", "half_open"),
        ("breaker", "half_open", "closed"),
    ]


async def test_as_decorator_together_with_retry(clock):
    breaker = Breaker("billing", minimum_calls=3, clock=clock)
    calls = 0

    @retry(Retry(attempts=10, budget=None))
    @breaker
    async def call():
        """Call."""
        nonlocal calls
        calls += 1
        raise ServiceUnavailableError(retry_after=0.001)

    with pytest.raises(CircuitOpenError):
        await call()
    assert (calls, call.__doc__) == (3, "Call.")


@pytest.mark.parametrize(
    "options",
    [
        {"failure_ratio": 0},
        {"failure_ratio": 1.1},
        {"minimum_calls": 0},
        {"window": 0},
        {"slow_call": -1},
        {"probes": 0},
        {"open_maximum": 1},
        {"patience": float("inf")},
        {"name": 0.5},
        {"name": ""},
    ],
    ids=str,
)
def test_misconfiguration_names_the_field(options):
    given: dict[str, Any] = {"name": "billing", **options}
    with pytest.raises(ValueError, match=next(iter(options))):
        Breaker(**given)


async def test_which_errors_count_can_be_said_by_type(clock):
    for counts in (OSError, (KeyError, OSError)):
        breaker = Breaker("billing", minimum_calls=1, clock=clock, counts=counts)
        await fail(breaker, ValueError())
        assert breaker.state == "closed"
        await fail(breaker, ConnectionResetError())
        assert breaker.state == "open"


async def _coroutine(error):
    return True


@pytest.mark.parametrize(
    "counts", [_coroutine, "OSError", int, ()], ids=["coroutine", "text", "no-error", "none"]
)
def test_a_condition_that_can_never_work_is_refused(counts):
    with pytest.raises(TypeError, match="counts="):
        Breaker("billing", counts=counts)
