import asyncio

import pytest

from common.errors import MessageBusError
from common.events.core._errors import BrokerUnavailable, ConsumerLost
from common.events.nats import _renewal
from common.events.nats._renewal import Renewal


class Recorded:
    """A renewal whose steps are written down; the next outcomes are those given."""

    def __init__(self, *outcomes, seconds=3600.0):
        self.outcomes = list(outcomes)
        self.steps = []
        self.errors = []
        self.ready = asyncio.Event()
        self.ready.set()
        self.renewal = Renewal(
            "consumer S/d",
            ready=self.ready.wait,
            renew=self._renew,
            care=self._care,
            seconds=lambda: seconds,
            lost=self.errors.append,
        )

    async def _renew(self):
        self.steps.append("renew")
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome

    async def _care(self, *, quiet):
        self.steps.append("quiet" if quiet else "woken")

    async def __aenter__(self):
        self.renewal.start()
        return self

    async def __aexit__(self, *_):
        await self.renewal.stop()

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition(self):
                await asyncio.sleep(0.001)


def renewed(times):
    return lambda recorded: recorded.steps.count("renew") == times


async def test_doubt_leads_to_one_renewal():
    async with Recorded() as recorded:
        recorded.renewal.doubt()
        recorded.renewal.doubt()
        await recorded.until(renewed(1))
        recorded.renewal.wake()
        await recorded.until(lambda each: each.steps[-1] == "woken")
        assert recorded.steps.count("renew") == 1


async def test_what_passes_is_tried_again_with_pauses_that_grow_until_it_is_confirmed(monkeypatch):
    pauses = []
    monkeypatch.setattr(_renewal, "_pause", lambda failures: pauses.append(failures) or 0.0)
    async with Recorded(*(BrokerUnavailable("away") for _ in range(3))) as recorded:
        recorded.renewal.doubt()
        await recorded.until(renewed(4))
        assert pauses == [2, 3, 4]
        recorded.renewal.confirm()
        recorded.renewal.doubt()
        await recorded.until(renewed(5))
        assert pauses == [2, 3, 4]
    assert recorded.errors == []


async def test_a_new_connection_ends_the_pause_that_failures_led_to(monkeypatch):
    pauses = []
    monkeypatch.setattr(_renewal, "_pause", lambda failures: pauses.append(failures) or 3600.0)
    async with Recorded(*(BrokerUnavailable("away") for _ in range(3))) as recorded:
        recorded.renewal.doubt()
        await recorded.until(lambda _: pauses == [2])
        recorded.renewal.confirm()  # what comes late from the connection before does not
        recorded.renewal.doubt()
        await asyncio.sleep(0.05)
        assert recorded.steps.count("renew") == 1
        recorded.renewal.restart()
        await recorded.until(lambda _: pauses == [2, 2])  # as if nothing had failed before
        recorded.renewal.restart()
        await recorded.until(renewed(4))
    assert recorded.errors == []


async def test_doubt_that_comes_while_there_is_no_connection_is_met_by_one_renewal():
    async with Recorded() as recorded:
        recorded.ready.clear()
        recorded.renewal.doubt()
        await asyncio.sleep(0.01)
        recorded.renewal.doubt()
        assert "renew" not in recorded.steps
        recorded.ready.set()
        await recorded.until(renewed(1))
        recorded.renewal.wake()
        await recorded.until(lambda each: each.steps[-1] == "woken")
        assert recorded.steps.count("renew") == 1


async def test_what_does_not_pass_ends_it_with_its_error():
    lost = ConsumerLost("gone", retryable=False)
    async with Recorded(lost) as recorded:
        recorded.renewal.doubt()
        await recorded.until(lambda each: each.errors)
        assert recorded.errors == [lost]


async def test_a_mistake_of_ours_ends_it_loudly_and_for_good(caplog):
    async with Recorded(KeyError("x")) as recorded:
        recorded.renewal.doubt()
        await recorded.until(lambda each: each.errors)
    (error,) = recorded.errors
    assert isinstance(error, MessageBusError)
    assert "consumer S/d has failed" in str(error)
    assert not error.retryable
    assert "consumer S/d has failed" in caplog.text


async def test_without_doubt_it_only_looks_after_things():
    async with Recorded(seconds=0.001) as recorded:
        await recorded.until(lambda each: len(each.steps) > 3)
        assert set(recorded.steps) == {"quiet"}


@pytest.mark.parametrize("failures", [2, 10, 10_000])
def test_pauses_are_bounded_and_jittered(failures):
    assert 0.1 < _renewal._pause(failures) <= 5.0
