# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportCallIssue=false

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.domain import idempotency_key

texts = st.text(max_size=60) | st.text(alphabet="aA-_.:b", max_size=6)
inputs = st.tuples(texts, texts, texts, st.none() | texts)


@given(inputs, inputs)
@example(("a-b", "x", "i", None), ("a_b", "x", "i", None))
@example(("a", "b:c", "d", None), ("a:b", "c", "d", None))
@example(("a", "b", "c", None), ("a", "b", "c", ""))
@example(("a", "b", "c", "d"), ("a", "b", "c:d", None))
@example(("a", "b", "x" * 500 + "1", None), ("a", "b", "x" * 500 + "2", None))
@example(("a", "b", "\ud800", None), ("a", "b", "\udfff", None))
def test_different_inputs_give_different_keys_and_equal_ones_the_same(one, other):
    assert (idempotency_key(*one) == idempotency_key(*other)) == (one == other)


@given(inputs)
def test_keys_are_bounded_ascii_without_separators_of_subjects_or_headers(case):
    key = idempotency_key(*case)
    assert len(key) <= 126
    assert set(key) <= set(string.ascii_uppercase + string.digits + "_:")


@given(inputs)
def test_a_key_is_not_got_by_naming_its_digest_as_extra(case):
    key = idempotency_key(*case)
    digest = key.rpartition(":")[2]
    if case[3] is None:
        assert idempotency_key(*case[:3], digest) != key


def test_the_readable_part_is_upper_cased_with_underscores():
    key = idempotency_key("credit-service", "order.refund", "O-17", "try-2")
    assert key.startswith("CREDIT_SERVICE:ORDER_REFUND:O_17:TRY_2:")


def test_the_same_inputs_give_the_same_key_in_every_version_of_this_package():
    assert idempotency_key("s", "o", "i", "e") == "S:O:I:E:YRYXERCM3HQPMHA6TAPWXLWQUI"


@pytest.mark.parametrize("wrong", [7, None, b"x"])
def test_anything_but_text_is_refused(wrong):
    with pytest.raises(TypeError, match="give text"):
        idempotency_key("s", "o", wrong)
