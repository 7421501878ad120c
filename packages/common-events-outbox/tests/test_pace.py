"""When a relay sleeps, and whom it asks to be woken by."""

from common.events.outbox._holds import Holds
from common.events.outbox._pace import Pace


def test_a_busy_relay_asks_not_to_be_woken_once_and_again_only_after_a_calm():
    pace = Pace(1.0)
    assert pace.announced
    told = [pace.found() for _ in range(10)]
    assert told.count(True) == 1
    assert not pace.announced
    slept = 0.0
    while not pace.nothing():
        slept += pace.pause()
        assert slept < 1
    assert pace.announced
    assert slept >= 0.1  # so that at a steady rate nothing is told at all


def test_pauses_double_up_to_the_poll_interval():
    pace = Pace(0.3)
    pauses = [pace.pause() for _ in range(12)]
    assert pauses[0] <= 0.005
    assert all(pause <= 0.3 for pause in pauses)
    assert all(pause >= 0.24 for pause in pauses[7:])


def test_single_messages_do_not_start_naps_anew():
    pace = Pace(10.0)
    for _ in range(12):
        pace.pause()
    for _ in range(5):
        assert not pace.found()
        assert not pace.nothing()
        assert pace.pause() > 1


def test_a_relay_that_cannot_publish_is_not_woken_until_it_can():
    pace = Pace(1.0)
    assert pace.quiet()
    assert not pace.quiet()
    while not pace.nothing():
        pace.pause()
    assert pace.announced


def test_a_stream_is_left_alone_longer_each_time_up_to_a_few_seconds():
    holds = Holds()
    assert holds.wait() == float("inf")
    waits = []
    for _ in range(40):
        holds.hold("LAMP")
        waits.append(holds.wait())
    assert 0 < waits[0] <= 0.2
    assert all(wait <= 5 for wait in waits)
    assert min(waits[5:]) > 2  # even so, an idle relay has little to do
    assert len({round(wait, 3) for wait in waits[5:]}) > 10  # not all relays at once
    assert holds.streams == ["LAMP"]
    assert holds.due() == []
    holds.free("LAMP")
    assert holds.streams == []
