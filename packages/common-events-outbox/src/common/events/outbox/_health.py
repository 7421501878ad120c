"""How a relay is."""

from dataclasses import dataclass

from common.errors import AppError
from common.events.core import TransportHealth
from common.events.outbox._lag import Lag


@dataclass(frozen=True, slots=True)
class RelayHealth:
    """How a relay is.

    Attributes:
        ok: It runs, and neither database nor broker gave trouble last.
        running: Whether it runs.
        partitions: How many of the 64 partitions it publishes; the others are other relays'.
        listening: Whether the database's notifications wake it; else it polls.
        lag: As measured now; ``None`` when the database does not answer.
        transport: The broker.
        error: What went wrong last, if that still lasts.
    """

    ok: bool
    running: bool
    partitions: int
    listening: bool
    lag: Lag | None
    transport: TransportHealth
    error: str | None = None


def told(error: BaseException) -> str:
    """Return a failure as text; of a foreign one only its name, as its text may quote values."""
    return f"{error.code}: {error.message}" if isinstance(error, AppError) else type(error).__name__
