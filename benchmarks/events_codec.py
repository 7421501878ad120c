"""What envelope and validation cost for one event, beside the least that pydantic can do."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from benchmarks._harness import Bar, Group
from common.context import Context, new_id, new_trace
from common.domain import registry
from common.domain.calls import CallCompleted, CallStatus
from common.events.core import Codec, Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

# 256 bytes of data, as the specification's bars have it.
EVENT = CallCompleted(
    call_id="0192f5a0-7c1e-7000-8000-000000000001".ljust(145, "x"),
    phone_number="+4915112345678",
    duration_seconds=61,
    status=CallStatus.COMPLETED,
)
DATA = EVENT.model_dump_json().encode()
SUBJECT = "evt.call.completed"
ID = new_id()
CONTEXT = Context(correlation_id=new_id(), tenant="t-1", trace=new_trace())
CODEC = Codec(source="/calls")
BINARY = Codec(source="/calls", mode="binary")
BODY, _ = CODEC.encode(EVENT, id=ID, context=CONTEXT, causation_id=ID)
BINARY_BODY, HEADERS = BINARY.encode(EVENT, id=ID, context=CONTEXT, causation_id=ID)
FOREIGN = BODY.replace(b'"id":', b'"other":"x","id":')


class TwoSteps(BaseModel):
    """An envelope as most would declare it; its data is validated after it."""

    id: str
    type: str
    source: str
    subject: str | None = None
    time: datetime
    dataschema: str | None = None
    correlation_id: str | None = Field(default=None, alias="correlationid")
    causation_id: str | None = Field(default=None, alias="causationid")
    tenant: str | None = None
    traceparent: str | None = None
    data: dict[str, Any]


TwoSteps.model_rebuild()


def nothing(number):
    for _ in range(number):
        pass


def serialized(number):
    for _ in range(number):
        EVENT.model_dump_json().encode()


def encoded(codec):
    def run(number):
        for _ in range(number):
            codec.encode(EVENT, id=ID, context=CONTEXT, causation_id=ID)

    return run


def validated(number):
    for _ in range(number):
        registry.decode("call.completed", DATA, version=1)


def two_steps(number):
    for _ in range(number):
        envelope = TwoSteps.model_validate_json(BODY)
        CallCompleted.model_validate(envelope.data)


def decoded(body, headers=None):
    decoder = Decoder([CallCompleted])

    def run(number):
        for _ in range(number):
            decoder.decode(SUBJECT, headers or {}, body)

    return run


def groups() -> Iterator[Group]:
    assert len(DATA) == 256
    yield Group(
        name="encode 256 bytes",
        number=5_000,
        rounds=25,
        contenders={
            "nothing": nothing,
            "data alone": serialized,
            "structured": encoded(CODEC),
            "binary": encoded(BINARY),
        },
        # The processor's time, at its best: nothing here waits, except for other programs.
        bars=[
            Bar(contender="structured", against="nothing", extra=7e-6, of="cpu", best=True),
        ],
    )
    yield Group(
        name="decode 256 bytes",
        number=5_000,
        rounds=25,
        contenders={
            "nothing": nothing,
            "data alone": validated,
            "envelope, then data": two_steps,
            "structured": decoded(BODY),
            "binary": decoded(BINARY_BODY, HEADERS),
            "another sender's": decoded(FOREIGN),
        },
        bars=[
            Bar(contender="structured", against="nothing", extra=5e-6, of="cpu", best=True),
        ],
    )
