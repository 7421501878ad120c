"""The bodies of the HTTP interface."""

from datetime import datetime
from typing import TYPE_CHECKING, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.db.core import Health
from common.domain import PhoneNumber
from common.domain.calls import CallFailureReason, CallStatus
from common.events.outbox import Lag

if TYPE_CHECKING:
    from calls_api.tables import Call


class Body(BaseModel):
    """What every request body shares: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class StartCall(Body):
    """Body of `POST /calls`."""

    phone_number: PhoneNumber


class EndCall(Body):
    """Body of `POST /calls/{call_id}/end`."""

    status: CallStatus
    duration_seconds: int = Field(ge=0, le=86_400)
    failure_reason: CallFailureReason | None = None

    @model_validator(mode="after")
    def _status_is_final_and_failures_say_why(self) -> Self:
        if not self.status.is_terminal:
            raise ValueError("status must be one that is final, such as completed")
        if (self.status is CallStatus.FAILED) != (self.failure_reason is not None):
            raise ValueError("failure_reason is required when status is failed, and only then")
        return self


class ListCalls(Body):
    """Query of `GET /calls`."""

    status: CallStatus | None = None
    processed: bool | None = None
    after: str | None = Field(default=None, description="`next_after` of the page before")
    limit: int = Field(default=50, ge=1, le=1000)


class CallView(BaseModel):
    """A call as the service shows it."""

    call_id: UUID
    phone_number: str
    status: CallStatus
    duration_seconds: int | None
    failure_reason: CallFailureReason | None
    started_at: datetime
    ended_at: datetime | None
    processed_at: datetime | None = Field(description="when its transcript record was written")

    @classmethod
    def of(cls, call: "Call", *, processed_at: datetime | None = None) -> Self:
        """Show a call as it is stored."""
        return cls(
            call_id=call.call_id,
            phone_number=call.phone_number,
            status=call.status,
            duration_seconds=call.duration_seconds,
            failure_reason=call.failure_reason,
            started_at=call.created_at,
            ended_at=call.ended_at,
            processed_at=processed_at,
        )


class CallPage(BaseModel):
    """Body of `GET /calls`: one page, newest last."""

    calls: list[CallView] = Field(
        description="with `processed` there may be fewer than `limit`, even none, before the end"
    )
    next_after: str | None = Field(
        description="pass as `after`, with the same `status`, to get the next page"
    )


class Summary(BaseModel):
    """Body of `GET /summary`: the books."""

    created: int
    ended: int
    waiting: int = Field(description="events that the broker does not have yet")
    undeliverable: int = Field(description="events that the broker refused for good")
    processed: int
    duplicate_effects: int


class Readiness(BaseModel):
    """Body of `GET /readyz`."""

    ok: bool = Field(description="whether requests are answered, for which the database is enough")
    degraded: bool = Field(description="whether events wait for long: for a relay, or the broker")
    database: Health
    outbox: Lag | None = Field(description="what waits; null when the database does not answer")
