"""The events of the voice platform by the names of their constants."""

from enum import StrEnum

from common.domain.calls import CallCompleted
from common.domain.memory import MemoryUpdated
from common.domain.transcripts import TranscriptProcessed


class Voice(StrEnum):
    """Subjects of the voice events."""

    CALL_COMPLETED = CallCompleted.__message__.subject
    MEMORY_UPDATED = MemoryUpdated.__message__.subject
    TRANSCRIPT_PROCESSED = TranscriptProcessed.__message__.subject
