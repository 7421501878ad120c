"""What a typed event costs above a bare pydantic model, and what the vocabulary's import costs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel

from benchmarks._harness import Bar, Group
from common.domain import Count, Identifier, PhoneNumber, registry
from common.domain.calls import CallCompleted, CallFailureReason, CallStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

RAW = (
    b'{"call_id":"0192f5a0-7c1e-7000-8000-000000000001","phone_number":"+4915112345678",'
    b'"duration_seconds":61,"failure_reason":null,"status":"completed"}'
)

FAILED = RAW.replace(b"completed", b"failed").replace(b"null", b'"no_answer"')


class Bare(BaseModel):
    """The fields and types of CallCompleted, without its cross-field rule."""

    call_id: Identifier
    phone_number: PhoneNumber
    duration_seconds: Count
    failure_reason: CallFailureReason | None = None
    status: CallStatus


class Loose(BaseModel):
    """The fields without patterns and bounds: what validation as such costs."""

    call_id: str
    phone_number: str
    duration_seconds: int
    failure_reason: CallFailureReason | None = None
    status: CallStatus


# pydantic resolves the annotations above, which are text here, at first use.
Bare.model_rebuild()
Loose.model_rebuild()


def validated(model, raw=RAW):
    def run(number):
        validate = model.model_validate_json
        for _ in range(number):
            validate(raw)

    return run


def decoded(number):
    decode = registry.decode
    for _ in range(number):
        decode("call.completed", RAW, version=1)


def python(code):
    def start(number):
        for _ in range(number):
            subprocess.run([sys.executable, "-c", code], check=True)

    return start


# `import pydantic` alone loads next to nothing: its names are imported when they are used.
PYDANTIC = "from pydantic import BaseModel, Field\nclass Model(BaseModel):\n    x: int = Field(0)\n"


def groups() -> Iterator[Group]:
    yield Group(
        name="CallCompleted from JSON",
        number=10_000,
        rounds=25,
        contenders={
            "bare model": validated(Bare),
            "bare model, no bounds": validated(Loose),
            "CallCompleted": validated(CallCompleted),
            "registry.decode": decoded,
        },
        bars=[
            # The processor's time: nothing here waits, except for other programs.
            Bar(contender="CallCompleted", against="bare model", ratio=1.1, of="cpu"),
        ],
    )
    # Not judged, and above 1.1: that a failed call has its reason is checked in Python, after the
    # core has not found the status among those that need none.
    yield Group(
        name="failed CallCompleted from JSON",
        number=10_000,
        rounds=25,
        contenders={
            "bare model": validated(Bare, FAILED),
            "CallCompleted": validated(CallCompleted, FAILED),
        },
    )
    yield Group(
        name="import",
        number=3,
        contenders={
            "pydantic, one model": python(PYDANTIC),
            "common.domain": python(PYDANTIC + "import common.domain"),
            "every area": python(PYDANTIC + "import common.domain\ncommon.domain.registry.all()"),
        },
        bars=[
            Bar(
                contender="common.domain",
                against="pydantic, one model",
                extra=30e-3,
                of="cpu",
                best=True,
            )
        ],
    )
