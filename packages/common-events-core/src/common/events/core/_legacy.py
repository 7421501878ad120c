"""Envelopes of the replaced systems, which are read so that services can move one at a time."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import JsonValue
from pydantic_core import SchemaValidator, ValidationError, core_schema

Parsed = Mapping[str, JsonValue]

_LEGACY = {"event_id", "subject", "timestamp", "payload"}
_EVENT_GRID = {"id", "eventType", "eventTime", "data"}

# Seconds or milliseconds since the epoch, or ISO 8601, with or without an offset.
_time = SchemaValidator(core_schema.datetime_schema())


class LegacyError(ValueError):
    """The envelope is of a legacy form, but something in it is wrong; quotes nothing."""


def read_legacy(
    parsed: Parsed,
    *,
    subject: str,
    type: str,  # noqa: A002
) -> tuple[dict[str, object], JsonValue] | None:
    """Return CloudEvents attributes and the data, or ``None`` when it is no legacy envelope.

    Two forms are known: the replaced event bus's, and the Event Grid schema
    (https://learn.microsoft.com/azure/event-grid/event-schema).

    Args:
        parsed: The body.
        subject: Where it was published.
        type: The type published there.

    Raises:
        LegacyError: It contradicts the subject, or an attribute cannot be understood.
    """
    if parsed.keys() >= _LEGACY:
        return _bus(parsed, (subject, type))
    if parsed.keys() >= _EVENT_GRID:
        return _event_grid(parsed, (subject, type))
    return None


def _bus(parsed: Parsed, names: tuple[str, str]) -> tuple[dict[str, object], JsonValue]:
    if parsed["subject"] not in names:
        raise LegacyError("its subject is another than the one it was published to")
    metadata = parsed.get("metadata")
    attributes: dict[str, object] = {
        # A repeated request had a new event id, but the same key.
        "id": parsed.get("idempotency_key") or parsed["event_id"],
        "source": "/legacy",
        "time": _utc(parsed["timestamp"]),
        "correlationid": parsed.get("correlation_id") or None,
    }
    if metadata:
        attributes["metadata"] = metadata
    return attributes, parsed["payload"]


def _event_grid(parsed: Parsed, names: tuple[str, str]) -> tuple[dict[str, object], JsonValue]:
    if parsed["eventType"] not in names:
        raise LegacyError("its eventType is another than the one published to this subject")
    attributes: dict[str, object] = {
        "id": parsed["id"],
        "source": parsed.get("topic") or "/eventgrid",
        "subject": parsed.get("subject") or None,
        "time": _utc(parsed["eventTime"]),
    }
    version = parsed.get("dataVersion")
    if version:
        # "2", "2.0"; the version of CloudEvents' dataschema is its end.
        attributes["dataschema"] = f"/{str(version).partition('.')[0]}"
    return attributes, parsed["data"]


def _utc(value: JsonValue) -> str:
    try:
        time: datetime = _time.validate_python(value)
        # The replaced systems wrote UTC, often without saying so.
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        return time.isoformat()
    except (ValidationError, OverflowError):
        pass
    raise LegacyError("its time is neither ISO 8601 nor a number of seconds")
