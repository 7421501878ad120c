# Misuse on purpose, and JSON values without narrowing:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportFunctionMemberAccess=false, reportIndexIssue=false, reportMissingTypeArgument=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportUnusedClass=false

import asyncio
import concurrent.futures

import pytest

from common.errors import (
    AppError,
    DatabaseError,
    DomainError,
    InfrastructureError,
    InternalError,
    RequestTimeoutError,
    is_retryable,
)


class Foreign(Exception):  # noqa: N818
    def __init__(self, retryable: object) -> None:
        self.retryable = retryable


class Broken(Exception):  # noqa: N818
    @property
    def retryable(self) -> bool:
        raise RuntimeError


class ForeignTimeout(TimeoutError):  # noqa: N818
    retryable = False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AppError("x"), False),
        (DomainError("x"), False),
        (InternalError("x"), False),
        (InfrastructureError("x"), True),
        (RequestTimeoutError("x"), True),
        (DatabaseError("x", retryable=False), False),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (BrokenPipeError(), True),
        (OSError(), False),
        (ValueError(), False),
        (Foreign(True), True),
        (Foreign(False), False),
        (Foreign("yes"), False),
        (Broken(), False),
        (ForeignTimeout(), False),
        (asyncio.CancelledError(), False),
        (concurrent.futures.CancelledError(), False),
        (KeyboardInterrupt(), False),
        (GeneratorExit(), False),
        (ExceptionGroup("g", [TimeoutError(), InfrastructureError("x")]), True),
        (ExceptionGroup("g", [TimeoutError(), ValueError()]), False),
        (BaseExceptionGroup("g", [TimeoutError(), asyncio.CancelledError()]), False),
    ],
)
def test_retryability(error, expected):
    assert is_retryable(error) is expected


def test_cancellation_is_not_retryable_even_if_it_says_so():
    error = asyncio.CancelledError()
    error.retryable = True
    assert not is_retryable(error)
