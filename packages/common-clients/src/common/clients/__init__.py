"""Resilient calls to other services: deadlines, retries, circuit breaker, bulkhead, HTTP client."""

from common.clients._auth import ServiceKey, ServiceToken
from common.clients._breaker import Breaker, BreakerSnapshot, is_failure
from common.clients._budget import RetryBudget
from common.clients._bulkhead import Bulkhead
from common.clients._client import REQUEST_TIMEOUT_HEADER, ServiceClient
from common.clients._config import ClientConfig, Limits
from common.clients._errors import BulkheadFullError, ClientClosedError
from common.clients._headers import Headers
from common.clients._hedge import Hedge, hedge
from common.clients._problem import Problem, problem_of
from common.clients._request import RequestOptions
from common.clients._response import Response
from common.clients._retry import Backoff, Retry, instant_retries, is_transient, retry
from common.clients._stream import StreamedResponse

__all__ = [
    # Calling another service over HTTP
    "ClientConfig",
    "Headers",
    "Limits",
    "Problem",
    "REQUEST_TIMEOUT_HEADER",
    "RequestOptions",
    "Response",
    "ServiceClient",
    "ServiceKey",
    "ServiceToken",
    "StreamedResponse",
    "problem_of",
    # For any coroutine function
    "Backoff",
    "Breaker",
    "BreakerSnapshot",
    "Bulkhead",
    "Hedge",
    "Retry",
    "RetryBudget",
    "hedge",
    "instant_retries",
    "is_failure",
    "is_transient",
    "retry",
    # Refusals of this side
    "BulkheadFullError",
    "ClientClosedError",
]
