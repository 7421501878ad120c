import subprocess
import sys
import textwrap

import pytest

from common.events.core.testing import History, HistoryError

CONSUMER = "billing"


@pytest.fixture
def history():
    """Three messages of one key, published, stored, handled and with effect, as promised."""
    history = History(seed=42)
    for name in "123":
        history.attempted(name, key="k")
        history.acknowledged(name)
        history.stored(name, key="k")
    for name in "123":
        history.handled(name, consumer=CONSUMER)
        history.effect(name, consumer=CONSUMER)
    return history


def complaints(history, **options):
    options = {"consumers": [CONSUMER], "exactly_once": True, "ordered": True, **options}
    with pytest.raises(HistoryError) as caught:
        history.check(**options)
    seed, *lines = str(caught.value).splitlines()
    assert seed == f"seed {history.seed}:"
    return lines


def only(history, *, but):
    """The same history without some facts."""
    history._facts = [fact for fact in history._facts if (fact.kind, fact.id) not in but]
    return history


def test_kept_promises_pass(history):
    history.check(consumers=[CONSUMER], exactly_once=True, ordered=True)
    assert history.unfinished(CONSUMER) == set()


def test_an_acknowledged_message_that_is_not_stored_is_found(history):
    only(history, but={("stored", "2")})
    assert complaints(history) == ["acknowledged, but not stored: 2"]


def test_a_stored_message_that_nobody_handled_is_found(history):
    only(history, but={("handled", "2"), ("effect", "2")})
    assert history.unfinished(CONSUMER) == {"2"}
    assert complaints(history) == [
        "stored, but neither handled nor dead-lettered by billing: 2",
        "stored, but without effect at billing: 2",
    ]


def test_a_dead_letter_takes_the_place_of_handling(history):
    only(history, but={("handled", "2"), ("effect", "2")})
    history.dead_lettered("2", consumer=CONSUMER)
    history.check(consumers=[CONSUMER], exactly_once=True, ordered=True)


def test_a_message_that_one_of_two_consumers_missed_is_found(history):
    for name in "12":
        history.handled(name, consumer="search")
    assert complaints(history, consumers=[CONSUMER, "search"], exactly_once=False) == [
        "stored, but neither handled nor dead-lettered by search: 3"
    ]
    history.dead_lettered("3", consumer=CONSUMER)
    assert complaints(history, consumers=["search"], exactly_once=False)


def test_a_message_that_was_not_acknowledged_may_be_stored_or_not(history):
    history.attempted("lost", key="k")
    history.attempted("late", key="k")
    history.stored("late", key="k")
    history.handled("late", consumer=CONSUMER)
    history.check(consumers=[CONSUMER], ordered=True)


def test_a_message_that_is_stored_twice_is_found(history):
    history.stored("1", key="k")
    assert complaints(history, ordered=False) == ["stored more than once: 1"]


@pytest.mark.parametrize("kind", ["stored", "handled", "effect", "dead_lettered"])
def test_a_message_that_nobody_sent_is_found(history, kind):
    options = {} if kind == "stored" else {"consumer": CONSUMER}
    getattr(history, kind)("ghost", **options)
    assert "never attempted, but seen: ghost" in complaints(history)


@pytest.mark.parametrize("kind", ["stored", "handled", "effect"])
def test_a_message_that_was_rolled_back_is_found(history, kind):
    history.attempted("gone")
    history.abandoned("gone")
    history.check(consumers=[CONSUMER], exactly_once=True, ordered=True)
    options = {} if kind == "stored" else {"consumer": CONSUMER}
    getattr(history, kind)("gone", **options)
    assert "rolled back, but seen: gone" in complaints(history)


def test_a_second_effect_is_found(history):
    history.handled("1", consumer=CONSUMER)
    history.check(consumers=[CONSUMER], exactly_once=True, ordered=True)
    history.effect("1", consumer=CONSUMER)
    history.check(consumers=[CONSUMER], ordered=True)
    assert complaints(history) == ["more than one effect at billing: 1"]


def test_effects_of_different_consumers_are_their_own(history):
    for name in "123":
        history.effect(name, consumer="search")
    history.check(consumers=[CONSUMER, "search"], exactly_once=True, ordered=True)


@pytest.mark.parametrize("kind", ["handled", "effect"])
def test_a_message_that_overtook_another_is_found(kind):
    history = History()
    for name in "123":
        history.attempted(name, key="k")
        history.acknowledged(name)
        history.stored(name)
    for name in "132":
        getattr(history, kind)(name, consumer=CONSUMER)
    history.check(consumers=[CONSUMER])
    assert complaints(history, exactly_once=False) == [
        f"{kind} by billing in another order than stored (key k): 3 before 2"
    ]


def test_messages_of_different_keys_have_no_order():
    history = History()
    for name, key in (("1", "a"), ("2", "b"), ("3", None), ("4", None)):
        history.attempted(name, key=key)
        history.acknowledged(name)
    for name in "4321":
        history.stored(name)
    for name in "2143":
        history.handled(name, consumer=CONSUMER)
    history.check(consumers=[CONSUMER], ordered=True)


def test_a_repeated_message_counts_where_it_came_first(history):
    history.handled("1", consumer=CONSUMER)
    history.check(consumers=[CONSUMER], exactly_once=True, ordered=True)


def test_messages_stored_in_another_order_than_sent_are_found():
    history = History()
    for name in "123":
        history.attempted(name, key="k")
    for name in "13":
        history.acknowledged(name)
    for name in "312":  # 2 was not acknowledged: it may come late
        history.stored(name)
        history.handled(name, consumer=CONSUMER)
    assert complaints(history, exactly_once=False) == [
        "stored in another order than attempted (key k): 3 before 1"
    ]


def test_all_violations_are_named_but_not_without_end():
    history = History()
    for number in range(30):
        history.attempted(f"{number:02}")
        history.acknowledged(f"{number:02}")
    (line,) = complaints(history)
    assert line.startswith("acknowledged, but not stored: 00, 01")
    assert line.endswith("09 and 20 more")


def test_the_same_seed_makes_the_same_choices():
    one, two = History(seed=5), History(seed=5)
    assert [one.random.random() for _ in range(9)] == [two.random.random() for _ in range(9)]
    assert History().seed != History().seed


def test_facts_of_killed_processes_are_kept(tmp_path):
    journal = tmp_path / "journal"
    history = History(journal=journal)
    code = """
        import os, signal, sys
        from common.events.core.testing import History
        history = History(journal=sys.argv[1])
        for number in range(200):
            history.handled(f"{sys.argv[2]}-{number}", consumer="billing")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for name in "ab":
        for number in range(200):
            history.attempted(f"{name}-{number}", key=name)
            history.acknowledged(f"{name}-{number}")
            history.stored(f"{name}-{number}")
    workers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), journal, name])
        for name in "ab"
    ]
    assert [worker.wait(60) for worker in workers] == [-9, -9]
    assert len(history.facts()) == 2 * 3 * 200 + 400
    history.check(consumers=[CONSUMER], ordered=True)
    history.handled("a-200", consumer=CONSUMER)
    assert complaints(history, exactly_once=False) == ["never attempted, but seen: a-200"]
