"""What the assistant remembers about people and things."""

from enum import StrEnum

from common.domain._message import Event
from common.domain._types import Identifier, Label


class MemoryOperation(StrEnum):
    """What was done to a memory."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class MemoryUpdated(Event, type="memory.updated", version=1, key="entity_id"):
    """The memory about an entity changed."""

    entity_id: Identifier
    memory_type: Label
    operation: MemoryOperation


MemoryUpdatedEvent = MemoryUpdated
