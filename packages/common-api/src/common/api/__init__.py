"""FastAPI conventions: ids and trace, errors, pages, idempotency, health and drain, limits."""

from common.api._conditional import (
    Conditional,
    ConditionalDep,
    PreconditionFailedError,
    PreconditionRequiredError,
    etag,
    get_conditional,
)
from common.api._deadline import REQUEST_TIMEOUT_HEADER, DeadlineMiddleware
from common.api._decompress import DecompressMiddleware
from common.api._depends import (
    ClientIPDep,
    CorrelationIdDep,
    RequestContextDep,
    RequestIdDep,
    client_ip,
    get_client_ip,
    get_correlation_id,
    get_request_context,
    get_request_id,
)
from common.api._errors import ErrorMiddleware, exception_handlers
from common.api._health import Check, CheckResult, Health
from common.api._hosts import TrustedHostsMiddleware
from common.api._idempotency import (
    IDEMPOTENCY_KEY_HEADER,
    IdempotencyKeyDep,
    IdempotencyMiddleware,
    get_idempotency_key,
    idempotent,
)
from common.api._idempotency_store import (
    Claim,
    IdempotencyStore,
    MemoryIdempotencyStore,
    StoredResponse,
)
from common.api._ids import RequestContextMiddleware
from common.api._install import install
from common.api._limits import Limits, LimitsMiddleware
from common.api._pages import (
    Cursor,
    CursorDep,
    Pagination,
    PaginationDep,
    get_cursor,
    get_pagination,
)
from common.api._probes import MetricsSource, ProbesMiddleware
from common.api._proxies import TrustedProxies
from common.api._rate_limit import (
    MemoryRateLimiter,
    RateLimitDecision,
    RateLimiter,
    by_client_ip,
    rate_limit,
)
from common.api._responses import (
    ApiResponse,
    ErrorBody,
    ErrorResponse,
    Meta,
    PageInfo,
    Problem,
    cursor_response,
    error_response,
    paginated_response,
    success_response,
)
from common.api._route import route_template
from common.api._security import Cors, SecurityHeadersMiddleware
from common.api._state import Settings
from common.api._styles import ErrorRenderer, ErrorStyle, ErrorView
from common.api._views import HTTPError

__all__ = [
    # everything in one call
    "install",
    # responses
    "ApiResponse",
    "ErrorBody",
    "ErrorResponse",
    "Meta",
    "PageInfo",
    "Problem",
    "cursor_response",
    "error_response",
    "paginated_response",
    "success_response",
    # errors
    "ErrorRenderer",
    "ErrorStyle",
    "ErrorView",
    "HTTPError",
    "PreconditionFailedError",
    "PreconditionRequiredError",
    "exception_handlers",
    # dependencies
    "ClientIPDep",
    "Conditional",
    "ConditionalDep",
    "CorrelationIdDep",
    "Cursor",
    "CursorDep",
    "IdempotencyKeyDep",
    "Pagination",
    "PaginationDep",
    "RequestContextDep",
    "RequestIdDep",
    "by_client_ip",
    "client_ip",
    "etag",
    "get_client_ip",
    "get_conditional",
    "get_correlation_id",
    "get_cursor",
    "get_idempotency_key",
    "get_pagination",
    "get_request_context",
    "get_request_id",
    "idempotent",
    "rate_limit",
    # ports and what fulfils them in one process
    "Claim",
    "IdempotencyStore",
    "MemoryIdempotencyStore",
    "MemoryRateLimiter",
    "MetricsSource",
    "RateLimitDecision",
    "RateLimiter",
    "StoredResponse",
    # health
    "Check",
    "CheckResult",
    "Health",
    # middleware
    "DeadlineMiddleware",
    "DecompressMiddleware",
    "ErrorMiddleware",
    "IdempotencyMiddleware",
    "LimitsMiddleware",
    "ProbesMiddleware",
    "RequestContextMiddleware",
    "SecurityHeadersMiddleware",
    "TrustedHostsMiddleware",
    # settings and names
    "Cors",
    "IDEMPOTENCY_KEY_HEADER",
    "Limits",
    "REQUEST_TIMEOUT_HEADER",
    "Settings",
    "TrustedProxies",
    "route_template",
]
