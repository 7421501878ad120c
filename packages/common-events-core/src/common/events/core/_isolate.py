"""Runs a coroutine in a copy of the context, without a task of its own."""

from collections.abc import Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@coroutine
def isolated(body: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await ``body`` so that context variables it sets are gone afterwards.

    A worker handles many messages, one after another, in one task: what one of them binds (a
    tenant, a logger's fields) must not be seen by the next. A task for each message would do
    that, too, at several times the cost.
    """
    run = copy_context().run
    send, throw = body.send, body.throw
    value: object = None
    error: BaseException | None = None
    try:
        while True:
            waiting = run(send, value) if error is None else run(throw, error)
            value = error = None
            try:
                value = yield waiting
            except GeneratorExit:
                run(body.close)
                raise
            except BaseException as raised:  # noqa: BLE001 - it is thrown into the body
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        error = None  # its traceback leads back to this frame
