"""Handles this worker's own `transcript.processed`: reports the record to calls-api, over HTTP.

Not where the record is written: no transaction waits for another service, and what is reported
is committed.
"""

import logging
from typing import Annotated, Final

from common.clients import Backoff, Breaker, Limits, Retry, ServiceClient
from common.domain.transcripts import TranscriptProcessed
from common.errors import ConflictError, NotFoundError, ValidationError
from common.events.core import Exponential, Inject
from common.events.core import Retry as Redelivery
from post_processing.settings import Settings

logger = logging.getLogger(__name__)

CONCURRENCY: Final = 10

RETRY: Final = Redelivery(attempts=4000, backoff=Exponential(0.5, 15))
"""About eight hours on average: calls-api may be away for as long, and nothing is given up."""

GIVE_UP_ON: Final = (ConflictError, NotFoundError, ValidationError)
"""calls-api knows no such call, or another record of it, or the id is none that a path can hold:
no repetition changes that.
"""

TRY_SECONDS: Final = 2.0
CALL_SECONDS: Final = 5.0
ATTEMPT_SECONDS: Final = 10.0


def make_client(settings: Settings) -> ServiceClient:
    """A client of calls-api, to be opened once.

    What fails for longer than its few repetitions is handed back to the broker.
    """
    return ServiceClient(
        "calls-api",
        base_url=settings.calls_api_url,
        timeout=CALL_SECONDS,
        try_timeout=TRY_SECONDS,
        retry=Retry(attempts=2, backoff=Backoff(first=0.05)),
        breaker=Breaker("calls-api", open_for=1, open_maximum=5),
        limits=Limits(max_concurrency=CONCURRENCY, max_queue=CONCURRENCY),
    )


async def report(event: TranscriptProcessed, calls_api: Annotated[ServiceClient, Inject]) -> None:
    """Tell calls-api which record a call has; however often, it has one effect."""
    await calls_api.put(
        "/calls/{call_id}/transcript",
        path={"call_id": event.call_id},
        json={"session_id": event.session_id},
    )
    logger.info("call %s is reported", event.call_id)
