"""The bodies of the HTTP interface."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

from common.domain import PhoneNumber
from common.domain.calls import CallFailureReason, CallStatus
from common.errors import ValidationError

if TYPE_CHECKING:
    from calls_api.tables import Call


class Body(BaseModel):
    """What every request body shares: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticKnownError("int_type")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
"""An integer as JSON Schema has it: 12 and 12.0, neither true nor "12", which pydantic takes."""


class StartCall(Body):
    """Body of `POST /calls`."""

    phone_number: PhoneNumber


_ENDS: Final = [status.value for status in CallStatus if status.is_terminal]
_FAILED: Final = CallStatus.FAILED.value


class EndCall(Body):
    """Body of `POST /calls/{call_id}/end`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [  # what the validator below says
                {
                    "properties": {
                        "status": {"const": _FAILED},
                        "failure_reason": {"type": "string"},
                    },
                    "required": ["failure_reason"],
                },
                {
                    "properties": {
                        "status": {"enum": [end for end in _ENDS if end != _FAILED]},
                        "failure_reason": {"type": "null"},
                    }
                },
            ]
        }
    )

    status: CallStatus
    duration_seconds: Whole = Field(ge=0, le=86_400)
    failure_reason: CallFailureReason | None = None

    @model_validator(mode="after")
    def _status_is_final_and_failures_say_why(self) -> Self:
        if not self.status.is_terminal:
            raise ValidationError(
                "status must be one that is final, such as completed", field="status"
            )
        if (self.status is CallStatus.FAILED) != (self.failure_reason is not None):
            raise ValidationError(
                "failure_reason is required when status is failed, and only then",
                field="failure_reason",
            )
        return self


class ReportTranscript(Body):
    """Body of `PUT /calls/{call_id}/transcript`."""

    session_id: UUID = Field(description="id of the transcript record")


class CallView(BaseModel):
    """A call as the service shows it."""

    call_id: UUID
    phone_number: str
    status: CallStatus
    duration_seconds: int | None
    failure_reason: CallFailureReason | None
    started_at: datetime
    ended_at: datetime | None
    processed_at: datetime | None = Field(description="when its transcript record was reported")
    transcript_id: UUID | None

    @classmethod
    def of(cls, call: "Call") -> Self:
        """Show a call as it is stored."""
        return cls(
            call_id=call.call_id,
            phone_number=call.phone_number,
            status=call.status,
            duration_seconds=call.duration_seconds,
            failure_reason=call.failure_reason,
            started_at=call.created_at,
            ended_at=call.ended_at,
            processed_at=call.processed_at,
            transcript_id=call.transcript_id,
        )


class Summary(BaseModel):
    """The books, as `GET /summary` shows them."""

    created: int
    ended: int
    processed: int = Field(description="calls whose transcript record was reported")
    waiting: int = Field(description="events that the broker does not have yet")
    undeliverable: int = Field(description="events that the broker refused for good")
