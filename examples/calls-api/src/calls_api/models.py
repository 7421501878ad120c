"""The bodies of the HTTP interface."""

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.domain import PhoneNumber
from common.domain.calls import CallFailureReason, CallStatus


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


class Call(BaseModel):
    """A call as the service shows it."""

    call_id: UUID
    phone_number: str
    status: CallStatus
    duration_seconds: int | None
    failure_reason: CallFailureReason | None
    started_at: datetime
    ended_at: datetime | None
    processed_at: datetime | None = Field(description="when its transcript record was written")


class CallPage(BaseModel):
    """Body of `GET /calls`: one page, newest last."""

    calls: list[Call]
    next_after: UUID | None = Field(description="pass as `after` to get the next page")


class Summary(BaseModel):
    """Body of `GET /summary`: the books."""

    created: int
    ended: int
    published: int
    processed: int
    duplicate_effects: int
