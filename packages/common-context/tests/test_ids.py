# Misuse on purpose, and values known to be there:
# pyright: reportPrivateImportUsage=false

import os
import re
import signal
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

import common.context._digits as _digits
import common.context._ids as ids
from common.context import new_id, new_trace, valid_id
from common.context._digits import random_digits


def test_new_ids_are_uuid7_of_the_current_time():
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    # An id may run ahead of the clock when very many were made in one millisecond.
    assert before - 1 <= made.int >> 80 <= after + 1


def test_new_ids_ascend_strictly_and_never_repeat_across_threads():
    made: list[list[str]] = []

    def work():
        made.append([new_id() for _ in range(2_000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == sorted(each) for each in made)
    assert len({one for each in made for one in each}) == 8_000


def test_ids_ascend_when_the_clock_goes_back_or_stands_still(monkeypatch):
    now = 1_750_000_000_000
    monkeypatch.setattr(ids, "_tick", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: now * 1_000_000)
    made = [new_id()]
    now -= 60_000
    made += [new_id() for _ in range(5_000)]  # more than one millisecond has ticks
    now += 60_000 + 10
    made.append(new_id())
    assert made == sorted(set(made))
    found = [uuid.UUID(each) for each in made]
    assert {(each.version, each.variant) for each in found} == {(7, uuid.RFC_4122)}
    times = [each.int >> 80 for each in found]
    assert (times[0], times[-2], times[-1]) == (
        1_750_000_000_000,
        1_750_000_000_001,
        1_750_000_000_010,
    )


def test_all_of_an_id_but_time_version_and_variant_is_random():
    made = [uuid.UUID(new_id()).int & ((1 << 62) - 1) for _ in range(2_000)]
    for bit in range(62):
        ones = sum(each >> bit & 1 for each in made)
        assert 700 < ones < 1_300  # 13 standard deviations


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads, on purpose
def test_a_forked_child_makes_other_ids_and_traces_even_while_the_lock_was_held():
    new_trace()  # there is more where that came from
    reader, writer = os.pipe()
    with ids._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            signal.alarm(10)  # ends it, should it wait for the lock for ever
            os.write(writer, f"{new_id()} {new_trace().trace_id} {new_trace().span_id}".encode())
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    theirs = os.read(reader, 128).decode().split()
    os.close(reader)
    assert status == 0
    assert uuid.UUID(theirs[0]).version == 7
    ours = [random_digits() for _ in range(2_000)]  # all that was there at the fork, and more
    random = [theirs[0].replace("-", "")[17:], theirs[1][:16], theirs[1][16:], theirs[2]]
    assert not any(digits.endswith(each) for digits in ours for each in random)


def test_random_digits_never_repeat_across_threads_nor_are_they_all_zero():
    pool = _digits._digits
    pool.clear()
    pool.extend(["0" * 16] * 3)
    made: list[list[str]] = []

    def work():
        made.append([random_digits() for _ in range(3_000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for each in made for one in each}) == 12_000
    assert all(re.fullmatch("[0-9a-f]{16}", one) for each in made for one in each)
    assert "0" * 16 not in {one for each in made for one in each}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", True),
        ("A-Z_0.9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a\n", False),
        ("a\r\nSet-Cookie: b", False),
        ("a b", False),
        ("ä", False),
        ("٣", False),
        ("\x1b[31m", False),
        (None, False),
        (b"a", False),
        (7, False),
    ],
)
def test_valid_ids(value, expected):
    assert valid_id(value) is expected


@given(st.text())
def test_valid_ids_are_those_of_the_pattern(value):
    assert valid_id(value) is bool(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value))
