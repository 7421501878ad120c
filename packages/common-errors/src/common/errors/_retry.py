"""Whether the same call may succeed later."""

from __future__ import annotations

import sys


def is_retryable(error: BaseException) -> bool:
    """Tell whether the call that raised ``error`` may succeed later without any change.

    What the error says itself counts: an attribute ``retryable`` that is a bool, as every
    `AppError` has. Of the others, timeouts and connection errors of the standard library are
    retryable. A group is retryable when each of its members is. Cancellation, interrupts and
    everything else that is no `Exception` never are.

    Whether repeating the call is *safe* is for the caller to know: a timeout does not tell
    whether the first attempt took effect.

    Example:
        >>> is_retryable(ConnectionResetError()), is_retryable(KeyError("a"))
        (True, False)
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_retryable(member) for member in error.exceptions)
    if not isinstance(error, Exception) or is_cancellation(error):
        return False
    try:
        said = getattr(error, "retryable", None)
    except Exception:  # noqa: BLE001 - a foreign property may raise anything
        return False
    if isinstance(said, bool):
        return said
    return isinstance(error, TimeoutError | ConnectionError)


def is_cancellation(error: BaseException) -> bool:
    """Tell whether ``error`` is a cancellation although it is an `Exception`.

    That of `concurrent.futures` is; asyncio's is not. Nobody can hold the former before its
    module is imported.
    """
    module = sys.modules.get("concurrent.futures._base")
    return module is not None and isinstance(error, module.CancelledError)
