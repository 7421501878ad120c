from common.events.nats._epoch import Epoch


def test_another_start_of_the_server_is_another_epoch():
    epoch = Epoch("A1")
    assert not epoch.served_by("A1")
    assert epoch.served_by("A2")
    assert epoch.number == 1


def test_another_leader_is_another_epoch_but_not_the_first_nor_none():
    epoch = Epoch("A1")
    assert not epoch.led_by(None)
    assert not epoch.led_by("a")
    assert not epoch.led_by("")  # an election
    assert not epoch.led_by("a")
    assert epoch.led_by("b")
    assert epoch.number == 1


def test_a_leader_that_crashed_and_leads_again_is_another_epoch():
    epoch = Epoch("A1")
    assert not epoch.led_by("a", "10:00")
    assert not epoch.led_by("a", "10:00")
    assert epoch.led_by("a", "10:01")
    assert epoch.number == 1
