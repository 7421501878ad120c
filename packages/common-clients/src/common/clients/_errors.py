"""What this package refuses by itself, and what it finds wrong with answers."""

from common.errors import CircuitOpenError, ServiceUnavailableError, UpstreamServiceError


class BulkheadFullError(ServiceUnavailableError):
    """As many calls are under way, and as many wait, as are allowed at once."""

    code = "BULKHEAD_FULL"


class ClientClosedError(ServiceUnavailableError):
    """The client was closed, or never opened with ``async with``."""

    code = "CLIENT_CLOSED"
    retryable = False


# Said here, without the other service having been asked: repeating at once is of no use.
REFUSALS = (CircuitOpenError, BulkheadFullError, ClientClosedError)


def unusable(
    service: str, call: str, why: str, *, status: int | None = None, retryable: bool = False
) -> UpstreamServiceError:
    """Return the error for an answer that is of no use.

    Args:
        service: Who answered.
        call: What was answered: method and template, as in ``GET /accounts/{id}``.
        why: What is wrong with it.
        status: HTTP status of the answer.
        retryable: Whether the same call may succeed later.
    """
    return UpstreamServiceError(
        f"{service}, {call}: {why}",
        service=service,
        retryable=retryable,
        upstream_service=service,
        upstream_status=status,
        endpoint=call.partition(" ")[2],
    )
