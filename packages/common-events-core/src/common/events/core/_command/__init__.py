"""The command ``common-events``: schemas, documents, streams and dead letters, from a terminal."""

from common.events.core._command._main import main

__all__ = ["main"]
