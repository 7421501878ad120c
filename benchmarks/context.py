"""What operation() costs, and what the first imports cost."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from benchmarks._harness import Bar, Group
from common.context import bind, new_id, observe, operation

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING = nullcontext()


class Silent:
    def on_start(self, op):
        pass

    def on_end(self, op):
        pass


def empty(number):
    for _ in range(number):
        with NOTHING:
            pass


def reported(number):
    for _ in range(number):
        with operation("db", "select"):
            pass


def observed(number):
    with observe(Silent()):
        reported(number)


def bound(number):
    for _ in range(number):
        with bind(tenant="acme"):
            pass


def identified(number):
    for _ in range(number):
        new_id()


def python(code):
    def start(number):
        for _ in range(number):
            subprocess.run([sys.executable, "-c", code], check=True)

    return start


def groups() -> Iterator[Group]:
    yield Group(
        name="operation",
        number=20_000,
        contenders={
            "empty with": empty,
            "no observer": reported,
            "one observer": observed,
            "bind": bound,
            "new_id": identified,
        },
        bars=[
            Bar(contender="no observer", against="empty with", extra=1e-6),
            Bar(contender="one observer", against="empty with", extra=5e-6),
        ],
    )
    both = "import common.errors, common.context"
    yield Group(
        name="import",
        number=1,
        rounds=40,
        contenders={"pass": python("pass"), both: python(both)},
        # What else the machine does lengthens the wall time at will, and through shared caches
        # the CPU time too, but shortens neither. Importing always does the same work, so that
        # the least CPU time is the one that was disturbed least.
        bars=[Bar(contender=both, against="pass", extra=30e-3, of="cpu", best=True)],
    )
