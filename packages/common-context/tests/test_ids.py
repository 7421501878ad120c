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

import common.context._ids as ids
from common.context import new_id, valid_id


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


def test_ids_ascend_when_the_clock_goes_back_and_when_the_counter_is_full(monkeypatch):
    source = ids._Source()
    now = 1_750_000_000_000
    monkeypatch.setattr(ids.time, "time_ns", lambda: now * 1_000_000)
    first = source.next()
    now -= 60_000
    second = source.next()
    assert second > first
    assert uuid.UUID(second).int >> 80 == 1_750_000_000_000
    source._counter = 0x3FF_FFFF_FFFF - 1
    third, fourth = source.next(), source.next()
    assert first < second < third < fourth
    assert uuid.UUID(fourth).int >> 80 == 1_750_000_000_001
    for each in (third, fourth):
        assert (uuid.UUID(each).version, uuid.UUID(each).variant) == (7, uuid.RFC_4122)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads, on purpose
def test_a_forked_child_makes_other_ids_even_while_the_lock_was_held():
    reader, writer = os.pipe()
    with ids._source._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            signal.alarm(10)  # ends it, should it wait for the lock for ever
            os.write(writer, new_id().encode())
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    theirs = os.read(reader, 36).decode()
    os.close(reader)
    assert status == 0
    assert uuid.UUID(theirs).version == 7
    assert theirs != new_id()


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
