"""What this package refuses by itself."""

from common.errors import CircuitOpenError, ServiceUnavailableError


class BulkheadFullError(ServiceUnavailableError):
    """As many calls are under way, and as many wait, as are allowed at once."""

    code = "BULKHEAD_FULL"


class ClientClosedError(ServiceUnavailableError):
    """The client was closed, or never opened with ``async with``."""

    code = "CLIENT_CLOSED"
    retryable = False


# Said here, without the other service having been asked: repeating at once is of no use.
REFUSALS = (CircuitOpenError, BulkheadFullError, ClientClosedError)
