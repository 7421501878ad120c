"""Transcripts of calls."""

from common.domain._message import Event
from common.domain._types import Identifier, Label


class TranscriptProcessed(Event, type="transcript.processed", version=1, key="call_id"):
    """Processing of a call's transcript has ended, with or without a transcript."""

    call_id: Identifier
    session_id: Identifier
    processing_status: Label
    transcript_available: bool


TranscriptProcessedEvent = TranscriptProcessed
