"""How a bus behaves."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from common.events.core._codec import Mode
from common.events.core._declarations import (
    DEAD_LETTER_PREFIX,
    DEAD_LETTERS,
    DeclareMode,
    StreamSpec,
)
from common.events.core._publish import PublishConfig

DEAD_LETTER_STREAM = StreamSpec(
    name=DEAD_LETTERS,
    subjects=(f"{DEAD_LETTER_PREFIX}>",),
    max_age=timedelta(days=30),
    # A busy subject must not push out what nobody has looked at yet.
    max_messages_per_subject=None,
)
"""The stream of dead letters, as a bus declares it unless told otherwise."""


class BusConfig(BaseModel):
    """How a bus behaves.

    Args:
        declare: What to do at start about the streams this service publishes to, those it is
            subscribed to and that of dead letters; see `DeclareMode`.
        streams: Declarations that take the place of the defaults, by their names.
        mode: Whether envelopes are sent structured (in the body) or binary (in headers). Both
            are read.
        publish: How messages are published.
        drain: Seconds handlers have to finish when the bus stops, at least 0. Let whoever
            sends SIGKILL wait a few seconds longer than that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    declare: DeclareMode = "create"
    streams: tuple[StreamSpec, ...] = ()
    mode: Mode = "structured"
    publish: PublishConfig = Field(default_factory=PublishConfig)
    drain: float = Field(default=25.0, ge=0, le=3600, allow_inf_nan=False)
