"""Configuration of a relay."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class RelayConfig(BaseModel):
    """How a `Relay` works.

    Args:
        batch_size: Most messages read, published and deleted together.
        poll_interval_seconds: Longest pause until the relay looks for messages by itself; a
            notification of the database wakes it before.
        lease_seconds: How long a relay that died keeps its partitions from the others.
        publish_timeout_seconds: Longest wait for the broker's acknowledgement of a message.
        attempts: How often a message the broker refuses is tried, before it becomes a dead
            letter. Attempts that fail because the broker is away do not count.
        retry_first_seconds: Pause after the first refusal; it doubles with each further one.
        retry_max_seconds: Longest pause after a refusal. A broker that is away is tried again
            after a few seconds, whatever this is.
        archive: Keep what was published in the table ``outbox_archive``.
        keep_archive: Age at which archived messages are removed.
        keep_inbox: Age at which marks of `SqlInbox` in this database are removed; ``None``:
            somebody else does that.
        upkeep_seconds: Pause between clean-ups, which also measure the lag.
        vacuum_after: Deleted messages after which the table is vacuumed; 0 leaves that to
            autovacuum.

    Raises:
        pydantic.ValidationError: Naming the field and the fix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: int = Field(default=500, ge=1, le=10_000)
    poll_interval_seconds: Seconds = 1.0
    lease_seconds: float = Field(default=30.0, ge=1, le=3_600)
    publish_timeout_seconds: Seconds = 10.0
    attempts: int = Field(default=10, ge=1, le=1_000)
    retry_first_seconds: Seconds = 1.0
    retry_max_seconds: Seconds = 300.0
    archive: bool = False
    keep_archive: timedelta = Field(default=timedelta(days=7), gt=timedelta(0))
    keep_inbox: timedelta | None = Field(default=timedelta(days=14), gt=timedelta(0))
    upkeep_seconds: Seconds = 30.0
    vacuum_after: int = Field(default=50_000, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.publish_timeout_seconds > self.lease_seconds / 2:
            if "publish_timeout_seconds" in self.model_fields_set:
                raise ValueError(
                    f"publish_timeout_seconds {self.publish_timeout_seconds:g} is more than half "
                    f"of lease_seconds {self.lease_seconds:g}: a relay that waits for its broker "
                    "would lose its partitions; make the lease longer"
                )
            object.__setattr__(self, "publish_timeout_seconds", self.lease_seconds / 2)
        if self.retry_max_seconds < self.retry_first_seconds:
            raise ValueError("retry_max_seconds must not be less than retry_first_seconds")
        return self
