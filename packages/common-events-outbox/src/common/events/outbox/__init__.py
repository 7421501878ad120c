"""Transactional outbox and inbox on PostgreSQL: the change and its event commit together."""

from common.events.outbox._admin import DeadLetter, OutboxAdmin, OutboxStatus, RelayStatus
from common.events.outbox._config import RelayConfig
from common.events.outbox._errors import OutboxNotMigrated
from common.events.outbox._health import RelayHealth
from common.events.outbox._inbox import SqlInbox
from common.events.outbox._lag import Lag
from common.events.outbox._outbox import Encoder, Outbox
from common.events.outbox._relay import Relay

__all__ = [
    # Writing
    "Encoder",
    "Outbox",
    # Publishing
    "Lag",
    "Relay",
    "RelayConfig",
    "RelayHealth",
    # Handling
    "SqlInbox",
    # Operating
    "DeadLetter",
    "OutboxAdmin",
    "OutboxStatus",
    "RelayStatus",
    # Errors
    "OutboxNotMigrated",
]
