"""Log lines as JSON, with the ids of the request."""

import json
import logging
from datetime import UTC, datetime
from typing import Final

from common.context import current

MAX_TEXT: Final = 8192


class ContextFormatter(logging.Formatter):
    """One JSON object a line. Whatever stands in a message, it stays within its line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        context = current()
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _bounded(record.getMessage()),
            "request_id": context.request_id,
            "correlation_id": context.correlation_id,
            "trace_id": context.trace and context.trace.trace_id,
            "exception": record.exc_info and _bounded(self.formatException(record.exc_info)),
        }
        return json.dumps({name: value for name, value in line.items() if value})


def _bounded(text: str) -> str:
    """The beginning and the end, which is where a traceback says what happened."""
    half = MAX_TEXT // 2
    return text if len(text) <= MAX_TEXT else f"{text[:half]} … {text[-half:]}"


def set_up() -> None:
    """Log to standard error, from level INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(ContextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
