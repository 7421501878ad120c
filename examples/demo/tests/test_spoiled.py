from collections import Counter

import pytest
from demo.spoiled import LEAST, MOST, spoiled


@pytest.mark.parametrize(("calls", "each"), [(1, LEAST), (500, 10), (1_000_000, MOST)])
def test_there_are_some_of_each_kind_but_not_too_many(calls, each):
    assert set(Counter(message.reason for message in spoiled(calls)).values()) == {each}
