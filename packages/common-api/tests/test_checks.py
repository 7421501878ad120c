"""Messages name the argument and what to give."""

from functools import partial

import pytest

from common.api import MemoryIdempotencyStore
from common.api._checks import is_async, number, port, switch


@pytest.mark.parametrize("value", ["5", None, True, float("nan"), -1])
def test_numbers(value):
    with pytest.raises(ValueError, match=r"^drain=.*: give a number of at least 0$"):
        number("drain", value)
    with pytest.raises(ValueError, match=r"^timeout=.*: give a number above 0$"):
        number("timeout", value, above=0)
    number("drain", 0)
    number("timeout", 0.5, above=0)


def test_switches():
    switch("decompress", value=True)
    with pytest.raises(TypeError, match="decompress=1: give True or False"):
        switch("decompress", value=1)


def test_ports():
    methods = ("claim", "store")
    port("idempotency", MemoryIdempotencyStore(), methods, "X()")
    with pytest.raises(TypeError, match=r"idempotency=MemoryIdempotencyStore: give .* as X\(\)"):
        port("idempotency", MemoryIdempotencyStore, methods, "X()")
    with pytest.raises(TypeError, match=r"idempotency=7: it has no claim nor store: .* as X\(\)"):
        port("idempotency", 7, methods, "X()")


class Asked:
    async def __call__(self): ...

    async def method(self): ...


def test_what_has_to_be_awaited():
    assert all(is_async(each) for each in (Asked(), Asked().method, partial(Asked().method)))
    assert not any(is_async(each) for each in (Asked, print, lambda: None, partial(print), 7))
