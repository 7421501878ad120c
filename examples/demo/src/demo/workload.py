"""The calls to make: generated from a seed, or read from a JSON-lines file."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from calls_api.models import EndCall
from pydantic import ConfigDict, ValidationError

from common.domain import PhoneNumber
from common.domain.calls import CallFailureReason, CallStatus
from common.errors import AppError

LINE_LIMIT = 65_536  # bytes


class PlannedCall(EndCall):
    """One call to make: whom to call, and how the call ends."""

    # A user's own file may hold more than a call needs.
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    phone_number: PhoneNumber


@dataclass(frozen=True)
class BadLine:
    """A line that is no call, and why."""

    number: int
    reason: str


@dataclass
class Workload:
    """Calls to make, read as they are needed."""

    title: str
    total: int
    """How many calls there are at most."""
    calls: Iterator[PlannedCall]
    bad: list[BadLine] = field(default_factory=list[BadLine])
    """The lines that were no calls, as far as has been read."""
    read: bool = False
    """Whether all of it has been read."""

    def empty(self) -> bool:
        """Whether there is not one call; reads as far as the first."""
        first = next(self.calls, None)
        if first is not None:
            self.calls = chain([first], self.calls)
        return first is None


def generated(count: int, *, seed: int = 1) -> Workload:
    """Make up `count` calls; the same seed gives the same calls.

    >>> [call.status.value for call in generated(3).calls]
    ['completed', 'completed', 'completed']
    """
    return Workload(f"{count} generated calls", count, _generate(count, random.Random(seed)))  # noqa: S311


def _generate(count: int, chance: random.Random) -> Iterator[PlannedCall]:
    for _ in range(count):
        status = chance.choices(
            [CallStatus.COMPLETED, CallStatus.FAILED, CallStatus.NO_ANSWER, CallStatus.BUSY],
            weights=[80, 8, 8, 4],
        )[0]
        completed = status is CallStatus.COMPLETED
        yield PlannedCall(
            phone_number=f"+49{chance.randrange(10**9, 10**10)}",
            status=status,
            duration_seconds=chance.randrange(5, 1800) if completed else 0,
            failure_reason=chance.choice(list(CallFailureReason))
            if status is CallStatus.FAILED
            else None,
        )


def from_file(path: Path) -> Workload:
    """Calls from a JSON-lines file, one line in memory at a time; blank lines are skipped.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        total = sum(1 for line in _lines(file) if line.strip())
    workload = Workload(f"the calls of {path}", total, iter(()))
    workload.calls = _read(path, workload.bad)
    return workload


def _read(path: Path, bad: list[BadLine]) -> Iterator[PlannedCall]:
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            try:
                yield _call(line)
            except (ValueError, AppError) as error:  # also JSON, Unicode and pydantic errors
                bad.append(BadLine(number, _reason(error)))
            except RecursionError:
                bad.append(BadLine(number, "nested too deeply"))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of at most LINE_LIMIT bytes; the rest of a longer one is passed over."""
    while line := file.readline(LINE_LIMIT + 1):
        yield line
        while not line.endswith(b"\n") and (line := file.readline(LINE_LIMIT)):
            pass


def _call(line: bytes) -> PlannedCall:
    if len(line) > LINE_LIMIT:
        raise ValueError(f"longer than {LINE_LIMIT} bytes")
    data = json.loads(line.decode("utf-8-sig"))
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one kind for `read`
    return PlannedCall.model_validate(data)


def _reason(error: Exception) -> str:
    if isinstance(error, AppError):
        return error.message
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'call'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1})"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    return str(error)
