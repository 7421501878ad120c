"""The constructors that `dataclass_transform` promises to type checkers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import common.errors

SERVICE = """
from common.errors import AppError, ConflictError, DatabaseError, ValidationError, field, wrap

class OrderClosedError(ConflictError):
    code = "ORDER_CLOSED"
    order_id: str | None = None

class OrderPaidError(OrderClosedError):
    code = "ORDER_PAID"
    amount: int
    payer: str | None = field(default=None, public=False)

class OrderGoneError(ConflictError):
    code = "ORDER_GONE"

    def __init__(self, order_id: str) -> None:
        super().__init__(f"Order {order_id} is gone", current_state="gone")
        self.order_id = order_id

OrderClosedError()
OrderClosedError("Closed", order_id="o-1", current_state="closed", code="X", status=410)
OrderPaidError("Paid", amount=3, payer="Ada", details={"a": object()}, cause=KeyError())
OrderGoneError("o-1")
DatabaseError("Lost", service="db", retryable=False, retry_after=1.5, table="orders")
ValidationError("Too short", field="password", value=object())
wrap(KeyError(), DatabaseError, "Lost", table="orders").table
"""

MISTAKES = [
    'OrderClosedError("Closed", oder_id="o-1")',
    'OrderClosedError("Closed", order_id=1)',
    'OrderClosedError("Closed", "o-1")',
    'OrderPaidError("Paid")',
    'AppError("x", order_id="o-1")',
    'OrderGoneError("o-1", current_state="x")',
    'wrap(KeyError(), DatabaseError, "Lost", tabel="orders")',
    'ValidationError("x").field.upper()',
]


def test_mypy_knows_the_constructors_and_finds_mistakes(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is no requirement of the tests")
    sound = SERVICE.count("\n")
    (tmp_path / "service.py").write_text(SERVICE + "\n".join(MISTAKES))
    source = Path(common.errors.__file__).parents[2]
    command = ["-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--namespace-packages", "--explicit-package-bases", "service.py"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "error:" in line}
    assert wrong == {sound + 1 + index for index in range(len(MISTAKES))}, done.stdout + done.stderr
