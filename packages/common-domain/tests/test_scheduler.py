# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false

from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError

from common.domain.scheduler import CreateSchedule, ScheduleType, UpdateSchedule

TIMING = {
    "cron": ("cron_expression", "0 3 * * *"),
    "interval": ("interval_seconds", 60),
    "one_time": ("scheduled_at", datetime(2027, 1, 1, tzinfo=UTC)),
}


def create(**fields: object) -> CreateSchedule:
    return CreateSchedule(**{"name": "nightly", "target_command": "catalog.sync_update", **fields})


@pytest.mark.parametrize("kind", TIMING)
def test_a_schedule_needs_the_timing_of_its_type(kind):
    field, value = TIMING[kind]
    assert getattr(create(schedule_type=kind, **{field: value}), field) == value
    with pytest.raises(ValidationError, match=f"schedule_type '{kind}' needs {field}"):
        create(schedule_type=kind)


def test_an_immediate_schedule_needs_no_timing():
    assert create(schedule_type="immediate").schedule_type is ScheduleType.IMMEDIATE


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval_seconds": 0},
        {"interval_seconds": -5},
        {"timezone": "Mars/Olympus"},
        {"priority": 0},
        {"priority": 11},
        {"max_retries": -1},
        {"retry_delay_seconds": -1},
        {"cron_expression": "often"},
        {"scheduled_at": datetime(2027, 1, 1)},  # noqa: DTZ001
        {"name": ""},
        {"command_payload": {"at": datetime(2027, 1, 1, tzinfo=UTC)}},
    ],
)
def test_wrong_values_are_refused_in_both_commands(wrong):
    with pytest.raises(ValidationError):
        create(schedule_type="immediate", **wrong)
    with pytest.raises(ValidationError):
        UpdateSchedule(schedule_id=UUID(int=1), **wrong)


@pytest.mark.parametrize("kind", TIMING)
def test_an_update_to_another_type_brings_its_timing(kind):
    field, value = TIMING[kind]
    UpdateSchedule(schedule_id=UUID(int=1), schedule_type=kind, **{field: value})
    with pytest.raises(ValidationError, match=f"needs {field}"):
        UpdateSchedule(schedule_id=UUID(int=1), schedule_type=kind)


def test_changes_survive_the_wire_without_what_stays():
    update = UpdateSchedule(schedule_id=UUID(int=1), is_active=False, tags=[], priority=1)
    expected = {"is_active": False, "tags": [], "priority": 1}
    assert update.changes() == expected
    assert UpdateSchedule.model_validate_json(update.model_dump_json()).changes() == expected
