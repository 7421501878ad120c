"""The line in the log for every error that ends a request."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from common.api._causes import causes_of, in_one_line
from common.api._state import ids
from common.api._views import view_of
from common.context import current, new_id
from common.errors import InternalError

if TYPE_CHECKING:
    from common.api._state import RequestState
    from common.api._styles import ErrorView

logger = logging.getLogger("common.api")

# What is not there at the moment: where it was asked for says nothing about why.
_OUTAGES = frozenset({503, 504})


def report(
    error: BaseException, known: ErrorView | None, state: RequestState, *, late: bool = False
) -> ErrorView:
    """Log an error, and return what its caller may see.

    Args:
        error: The error.
        known: What is known of it; ``None`` if nobody raised it on purpose.
        state: The request's.
        late: Whether no status can tell the caller any more.
    """
    on_purpose = known is not None
    if known is None:
        known = view_of(InternalError(error_id=new_id()))
        assert known is not None  # noqa: S101 - an InternalError always has a view
    if known.status < 400:
        return known  # an answer, such as 304
    if known.status < 500 and not late:
        state.refused = True
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "request refused: %d %s, %s, request_id=%s: %s",
                known.status,
                known.code,
                state.name(),
                current().request_id,
                in_one_line(known.message),
                extra=ids(code=known.code),
            )
        return known
    state.reported = error
    if not state.complete:
        state.error = error
    view = known if known.error_id else replace(known, error_id=new_id())
    what = f": {view.status}"  # the one that is sent
    if late:
        what = " after the response:" if state.complete else " in the middle of the response:"
    # A traceback for each request of an outage would bury everything else.
    brief = on_purpose and view.status in _OUTAGES and not logger.isEnabledFor(logging.DEBUG)
    logger.error(
        "request failed%s %s, %s, error_id=%s, request_id=%s: %s",
        what,
        view.code,
        state.name(),
        view.error_id,
        current().request_id,
        causes_of(error) if on_purpose else type(error).__name__,
        exc_info=None if brief else error,
        extra=ids(code=view.code, error_id=view.error_id),
    )
    return view
