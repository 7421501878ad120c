# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false

import pytest
from pydantic import ValidationError

from common.domain.calls import CallCompleted, CallFailureReason, CallStatus

GOOD = {
    "call_id": "c-1",
    "phone_number": "+4930901820",
    "duration_seconds": 61,
    "status": "completed",
}


def both_ways(data: dict[str, object]) -> list[CallCompleted | ValidationError]:
    """Construct from keywords and from JSON: the rule is compiled differently for each."""
    import json

    results: list[CallCompleted | ValidationError] = []
    for make in (
        lambda: CallCompleted(**data),
        lambda: CallCompleted.model_validate(data),
        lambda: CallCompleted.model_validate_json(json.dumps(data)),
        lambda: CallCompleted.model_validate_json(json.dumps(dict(reversed(data.items())))),
    ):
        try:
            results.append(make())
        except ValidationError as error:
            results.append(error)
    return results


@pytest.mark.parametrize("extra", [{}, {"failure_reason": None}])
def test_a_failed_call_needs_a_reason(extra):
    for result in both_ways({**GOOD, "status": "failed", **extra}):
        assert isinstance(result, ValidationError)
        (problem,) = result.errors()
        assert problem["loc"] == ("status",)
        assert "failure_reason" in problem["msg"]


@pytest.mark.parametrize("reason", CallFailureReason)
def test_a_failed_call_with_a_reason_is_read(reason):
    for result in both_ways({**GOOD, "status": "failed", "failure_reason": reason.value}):
        assert isinstance(result, CallCompleted)
        assert result.status is CallStatus.FAILED
        assert result.failure_reason is reason


@pytest.mark.parametrize("status", [s for s in CallStatus if s is not CallStatus.FAILED])
def test_other_calls_need_no_reason_and_have_real_members_as_status(status):
    for result in both_ways({**GOOD, "status": status.value}):
        assert isinstance(result, CallCompleted)
        assert result.status is status
        assert result.failure_reason is None


@pytest.mark.parametrize("status", ["", "COMPLETED", "bogus", 1, None, [], "_Nothing", "nothing"])
def test_an_unknown_status_is_one_error(status):
    for result in both_ways({**GOOD, "status": status}):
        assert isinstance(result, ValidationError)
        assert [problem["loc"] for problem in result.errors()] == [("status",)]


def test_an_unknown_reason_is_reported_once_not_as_missing_too():
    for result in both_ways({**GOOD, "status": "failed", "failure_reason": "bogus"}):
        assert isinstance(result, ValidationError)
        assert [problem["loc"] for problem in result.errors()] == [("failure_reason",)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration_seconds": -1},
        {"phone_number": "030 901820"},
        {"call_id": ""},
        {"call_id": "x" * 256},
    ],
)
def test_other_rules_hold(wrong):
    for result in both_ways({**GOOD, **wrong}):
        assert isinstance(result, ValidationError)


def test_the_schema_lists_every_status():
    schema = CallCompleted.model_json_schema()
    assert schema["$defs"]["CallStatus"]["enum"] == [status.value for status in CallStatus]


def test_the_status_tells_whether_the_call_is_over():
    running = {CallStatus.INITIATED, CallStatus.RINGING, CallStatus.IN_PROGRESS}
    assert {status for status in CallStatus if not status.is_terminal} == running
