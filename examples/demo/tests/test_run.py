from collections import Counter
from dataclasses import replace

import pytest
from demo.client import Tally
from demo.run import Books

BALANCED = Books(
    tally=Tally(created=2, ended=2),
    created=2,
    ended=2,
    published=2,
    waiting=0,
    undeliverable=0,
    processed=2,
    announced=2,
    reported=2,
    duplicate_effects=0,
    spoiled=Counter(malformed=3, rejected=3),
    dead_letters=Counter(malformed=3, rejected=3),
    unprocessed=[],
    seconds=1.0,
    latencies=[],
    killed=True,
)


def test_books_balance_only_when_dead_letters_are_what_was_bad_on_purpose():
    assert BALANCED.balance
    for dead in ({}, {"malformed": 3, "rejected": 2}, {"malformed": 4, "rejected": 3}):
        assert not replace(BALANCED, dead_letters=Counter(dead)).balance
    swapped = Counter(malformed=3, attempts=3)
    assert not replace(BALANCED, dead_letters=swapped).balance


@pytest.mark.parametrize(
    "wrong",
    [
        {"created": 3},
        {"ended": 1},
        {"published": 1},
        {"waiting": 1},
        {"undeliverable": 1},
        {"reported": 1},
        {"reported": 3},
        {"processed": 1},
        {"announced": 1},
        {"duplicate_effects": 1},
        {"unprocessed": ["c-1"]},
        {"tally": Tally(created=2, ended=1)},
        {"tally": Tally(created=2, ended=2, refused=["/calls: 500"])},
        {"tally": Tally(), "created": 0, "ended": 0, "processed": 0},
    ],
)
def test_books_with_one_wrong_figure_do_not_balance(wrong):
    assert not replace(BALANCED, **wrong).balance


def test_an_event_that_the_broker_has_twice_is_no_imbalance():
    assert replace(BALANCED, published=3, announced=3).balance
