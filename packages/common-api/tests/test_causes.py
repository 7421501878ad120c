"""An error in one line."""

import itertools

import pytest

from common.api._causes import MAX_CAUSES, causes_of


class HostileError(Exception):
    def __str__(self):
        raise KeyError


def chain(*errors):
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def failed_while_handling(*, hidden):
    try:
        try:
            raise OSError("first")
        except OSError as error:
            raise LookupError("second") from (None if hidden else error)
    except LookupError as error:
        return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), "ValueError"),
        (HostileError(), "HostileError"),
        (failed_while_handling(hidden=False), "LookupError: second, caused by OSError: first"),
        (failed_while_handling(hidden=True), "LookupError: second"),
        (ExceptionGroup("g", [ExceptionGroup("h", [OSError("x")])]), "OSError: x"),
        (chain(KeyError("k"), ValueError("a\n\tb")), "KeyError: 'k', caused by ValueError: a b"),
    ],
)
def test_causes_are_named_in_order(error, text):
    assert causes_of(error) == text


def test_chains_are_bounded_and_may_lead_to_themselves():
    error = chain(*(ValueError(str(n)) for n in range(1000)))
    assert causes_of(error).count("caused by") == MAX_CAUSES
    assert causes_of(error).endswith("…")
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert causes_of(one) == "ValueError: one, caused by ValueError: two"
