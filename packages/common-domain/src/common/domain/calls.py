"""Voice calls: their states, why they fail, and the event when one is over."""

from enum import StrEnum
from typing import Annotated

from common.domain._message import Event
from common.domain._rules import refuse_without
from common.domain._types import Count, Identifier, PhoneNumber


class CallStatus(StrEnum):
    """Where a call stands."""

    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    NO_ANSWER = "no_answer"
    BUSY = "busy"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the call is over and the status will not change any more."""
        return self not in {CallStatus.INITIATED, CallStatus.RINGING, CallStatus.IN_PROGRESS}


class CallFailureReason(StrEnum):
    """Why a call did not come about or broke off."""

    NETWORK_ERROR = "network_error"
    USER_BUSY = "user_busy"
    NO_ANSWER = "no_answer"
    REJECTED = "rejected"
    SYSTEM_ERROR = "system_error"
    INVALID_NUMBER = "invalid_number"
    INSUFFICIENT_BALANCE = "insufficient_balance"


class CallCompleted(Event, type="call.completed", version=1, key="call_id"):
    """A call is over, well or not.

    A failed call carries its reason. A reason on any other status is kept: it contradicts
    nothing on busy, unanswered and cancelled calls.
    """

    call_id: Identifier
    phone_number: PhoneNumber
    duration_seconds: Count
    # Before `status`, whose rule looks at it.
    failure_reason: CallFailureReason | None = None
    status: Annotated[CallStatus, refuse_without("failure_reason", CallStatus.FAILED)]


CallCompletedEvent = CallCompleted
