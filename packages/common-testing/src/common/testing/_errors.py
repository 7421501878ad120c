"""The one error of this package."""


class ServerError(RuntimeError):
    """A server or process cannot be started, reached or controlled; the message says what to do."""
