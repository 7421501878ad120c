"""Schedules: commands that are to be sent later or again and again, and their executions."""

from enum import StrEnum
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from common.domain._json import JsonObject
from common.domain._message import Command, Event
from common.domain._problems import OWN
from common.domain._sensitive import Sensitive
from common.domain._types import (
    Count,
    CronExpression,
    Identifier,
    Label,
    Text,
    TimeZoneName,
    UtcDatetime,
)

# --- values ---------------------------------------------------------------------------------


class ScheduleType(StrEnum):
    """What decides when a schedule runs."""

    CRON = "cron"
    INTERVAL = "interval"
    ONE_TIME = "one_time"
    IMMEDIATE = "immediate"


class ExecutionStatus(StrEnum):
    """Where an execution of a schedule stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"


Priority = Annotated[int, Field(ge=1, le=10)]
"""1 to 10; 5 is usual."""

CommandPayload = Annotated[JsonObject, Sensitive()]
"""The data of the command to send. Sensitive: it may hold whatever that command holds."""

IntervalSeconds = Annotated[int, Field(gt=0)]
Tags = Annotated[list[Label], Field(max_length=100)]

_TIMING = {
    ScheduleType.CRON: "cron_expression",
    ScheduleType.INTERVAL: "interval_seconds",
    ScheduleType.ONE_TIME: "scheduled_at",
}


def _check_timing(command: "CreateSchedule | UpdateSchedule") -> None:
    # Timing fields of other schedule types are let through: schedule_type says which one counts.
    kind = command.schedule_type
    field = _TIMING.get(kind) if kind is not None else None
    if kind is not None and field is not None and getattr(command, field) is None:
        raise PydanticCustomError(
            OWN,
            "schedule_type '{kind}' needs {field}",
            {"kind": kind.value, "field": field},
        )


# --- commands -------------------------------------------------------------------------------


class CreateSchedule(Command, type="scheduler.schedule.create", version=1, key="name"):
    """Make a schedule. A cron schedule has a ``cron_expression``, and so on for each type."""

    name: Identifier
    description: Text | None = None
    schedule_type: ScheduleType
    cron_expression: CronExpression | None = None
    interval_seconds: IntervalSeconds | None = None
    scheduled_at: UtcDatetime | None = None
    timezone: TimeZoneName = "UTC"
    target_command: Identifier
    command_payload: CommandPayload = Field(default_factory=dict)
    tags: Tags = Field(default_factory=list)
    priority: Priority = 5
    max_retries: Count = 3
    retry_delay_seconds: Count = 300
    created_by: Label | None = None

    @model_validator(mode="after")
    def _has_its_timing(self) -> Self:
        _check_timing(self)
        return self


class UpdateSchedule(Command, type="scheduler.schedule.update", version=1, key="schedule_id"):
    """Change a schedule. ``None`` leaves a field as it is; see `changes`.

    A new ``schedule_type`` comes with its timing, as in `CreateSchedule`: the stored schedule
    may have none that fits.
    """

    schedule_id: UUID
    name: Identifier | None = None
    description: Text | None = None
    schedule_type: ScheduleType | None = None
    cron_expression: CronExpression | None = None
    interval_seconds: IntervalSeconds | None = None
    scheduled_at: UtcDatetime | None = None
    timezone: TimeZoneName | None = None
    target_command: Identifier | None = None
    command_payload: CommandPayload | None = None
    tags: Tags | None = None
    priority: Priority | None = None
    max_retries: Count | None = None
    retry_delay_seconds: Count | None = None
    is_active: bool | None = None

    @model_validator(mode="after")
    def _has_its_timing(self) -> Self:
        _check_timing(self)
        return self

    def changes(self) -> dict[str, Any]:
        """Return the fields to change with their new values."""
        return {name: value for name, value in self if value is not None and name != "schedule_id"}


class DeleteSchedule(Command, type="scheduler.schedule.delete", version=1, key="schedule_id"):
    """Remove a schedule: mark it deleted or, with ``hard_delete``, forget it."""

    schedule_id: UUID
    hard_delete: bool = False


class PauseSchedule(Command, type="scheduler.schedule.pause", version=1, key="schedule_id"):
    """Do not run a schedule until it is resumed."""

    schedule_id: UUID
    reason: Text | None = None


class ResumeSchedule(Command, type="scheduler.schedule.resume", version=1, key="schedule_id"):
    """Run a paused schedule again."""

    schedule_id: UUID


class TriggerSchedule(Command, type="scheduler.schedule.trigger", version=1, key="schedule_id"):
    """Run a schedule once, now."""

    schedule_id: UUID
    override_payload: CommandPayload | None = None


class ExecuteImmediate(Command, type="scheduler.execute.immediate", version=1):
    """Send a command now, without a schedule."""

    target_command: Identifier
    command_payload: CommandPayload = Field(default_factory=dict)
    priority: Priority = 5


CreateScheduleCommandPayload = CreateSchedule
UpdateScheduleCommandPayload = UpdateSchedule
DeleteScheduleCommandPayload = DeleteSchedule
PauseScheduleCommandPayload = PauseSchedule
ResumeScheduleCommandPayload = ResumeSchedule
TriggerScheduleCommandPayload = TriggerSchedule
ExecuteImmediateCommandPayload = ExecuteImmediate


class SchedulerCommands(StrEnum):
    """Subjects of the scheduler's commands."""

    SCHEDULE_CREATE = CreateSchedule.__message__.subject
    SCHEDULE_UPDATE = UpdateSchedule.__message__.subject
    SCHEDULE_DELETE = DeleteSchedule.__message__.subject
    SCHEDULE_PAUSE = PauseSchedule.__message__.subject
    SCHEDULE_RESUME = ResumeSchedule.__message__.subject
    SCHEDULE_TRIGGER = TriggerSchedule.__message__.subject
    EXECUTE_IMMEDIATE = ExecuteImmediate.__message__.subject


# --- events ---------------------------------------------------------------------------------


class ScheduleCreated(Event, type="scheduler.schedule.created", version=1, key="schedule_id"):
    """A schedule exists."""

    schedule_id: UUID
    name: Identifier
    schedule_type: ScheduleType
    target_command: Identifier
    next_run_at: UtcDatetime | None
    created_by: Label
    created_at: UtcDatetime


class ScheduleUpdated(Event, type="scheduler.schedule.updated", version=1, key="schedule_id"):
    """A schedule was changed."""

    schedule_id: UUID
    updated_fields: Annotated[list[Label], Field(max_length=100)]
    next_run_at: UtcDatetime | None
    updated_by: Label
    updated_at: UtcDatetime


class ScheduleDeleted(Event, type="scheduler.schedule.deleted", version=1, key="schedule_id"):
    """A schedule was removed."""

    schedule_id: UUID
    deleted_by: Label
    deleted_at: UtcDatetime
    hard_delete: bool


class SchedulePaused(Event, type="scheduler.schedule.paused", version=1, key="schedule_id"):
    """A schedule does not run until it is resumed."""

    schedule_id: UUID
    reason: Text | None
    paused_by: Label
    paused_at: UtcDatetime


class ScheduleResumed(Event, type="scheduler.schedule.resumed", version=1, key="schedule_id"):
    """A paused schedule runs again."""

    schedule_id: UUID
    next_run_at: UtcDatetime | None
    resumed_by: Label
    resumed_at: UtcDatetime


class ScheduleTriggered(Event, type="scheduler.schedule.triggered", version=1, key="schedule_id"):
    """A schedule was run out of turn."""

    schedule_id: UUID
    execution_id: UUID
    triggered_by: Label
    triggered_at: UtcDatetime


class ExecutionStarted(Event, type="scheduler.execution.started", version=1, key="schedule_id"):
    """A schedule's command is being sent."""

    execution_id: UUID
    schedule_id: UUID
    schedule_name: Identifier
    target_command: Identifier
    scheduled_for: UtcDatetime
    started_at: UtcDatetime
    attempt_number: Count = 1


class ExecutionCompleted(Event, type="scheduler.execution.completed", version=1, key="schedule_id"):
    """An execution ended."""

    execution_id: UUID
    schedule_id: UUID
    status: ExecutionStatus
    duration_ms: Count
    completed_at: UtcDatetime
    next_run_at: UtcDatetime | None


class ExecutionFailed(Event, type="scheduler.execution.failed", version=1, key="schedule_id"):
    """An attempt of an execution failed."""

    execution_id: UUID
    schedule_id: UUID
    error_message: Text
    error_type: Label | None
    will_retry: bool
    retry_at: UtcDatetime | None
    attempt_number: Count
    failed_at: UtcDatetime


ScheduleCreatedEventPayload = ScheduleCreated
ScheduleUpdatedEventPayload = ScheduleUpdated
ScheduleDeletedEventPayload = ScheduleDeleted
SchedulePausedEventPayload = SchedulePaused
ScheduleResumedEventPayload = ScheduleResumed
ScheduleTriggeredEventPayload = ScheduleTriggered
ExecutionStartedEventPayload = ExecutionStarted
ExecutionCompletedEventPayload = ExecutionCompleted
ExecutionFailedEventPayload = ExecutionFailed


class SchedulerEvents(StrEnum):
    """Subjects of the scheduler's events."""

    SCHEDULE_CREATED = ScheduleCreated.__message__.subject
    SCHEDULE_UPDATED = ScheduleUpdated.__message__.subject
    SCHEDULE_DELETED = ScheduleDeleted.__message__.subject
    SCHEDULE_PAUSED = SchedulePaused.__message__.subject
    SCHEDULE_RESUMED = ScheduleResumed.__message__.subject
    SCHEDULE_TRIGGERED = ScheduleTriggered.__message__.subject
    EXECUTION_STARTED = ExecutionStarted.__message__.subject
    EXECUTION_COMPLETED = ExecutionCompleted.__message__.subject
    EXECUTION_FAILED = ExecutionFailed.__message__.subject
