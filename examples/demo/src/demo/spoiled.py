"""Messages that are bad on purpose."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from common.domain import streams
from common.domain.calls import CallCompleted
from common.events.core import Outgoing

LEAST, MOST = 3, 100  # of each kind

DATA: Final = {
    "call_id": "this is no UUID",
    "phone_number": "+4930901820",
    "duration_seconds": 7,
    "status": "completed",
}


@dataclass(frozen=True)
class Spoiled:
    """A message nobody can handle.

    Args:
        reason: The reason its dead letter must give.
        data: The body.
    """

    reason: str
    data: bytes

    def outgoing(self) -> Outgoing:
        """As the transport takes it: past the bus, which would not let it out."""
        return Outgoing(
            CallCompleted.__message__.subject,
            self.data,
            id=str(uuid4()),
            stream=streams.stream_for(CallCompleted).name,
        )


def spoiled(calls: int) -> list[Spoiled]:
    """Make bad messages of every kind, some for so many calls.

    >>> sorted({each.reason for each in spoiled(500)}), len(spoiled(500))
    (['invalid_data', 'malformed', 'rejected', 'unknown_version'], 40)
    """
    count = min(max(calls // 50, LEAST), MOST)
    return [message for _ in range(count) for message in _one_of_each()]


def _one_of_each() -> list[Spoiled]:
    return [
        Spoiled("malformed", b"\xff\x00 bytes that are no JSON"),
        Spoiled("unknown_version", _event(99, DATA)),
        Spoiled("invalid_data", _event(1, DATA | {"duration_seconds": -1})),
        Spoiled("rejected", _event(1, DATA)),
    ]


def _event(version: int, data: Mapping[str, object]) -> bytes:
    kind = CallCompleted.__message__.type
    event = {
        "specversion": "1.0",
        "type": kind,
        "source": "/demo",
        "id": str(uuid4()),
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "dataschema": f"urn:common:{kind}/{version}",
        "data": data,
    }
    return json.dumps(event).encode()
