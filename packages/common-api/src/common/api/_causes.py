"""An error in one line of the log, with what caused it."""

from __future__ import annotations

MAX_TEXT = 300  # characters of one message
MAX_CAUSES = 8


def causes_of(error: BaseException) -> str:
    """Return types and messages of an error and of what caused it, without any traceback.

    Example:
        >>> error = RuntimeError("the order was not stored")
        >>> error.__cause__ = OSError("connection refused")
        >>> causes_of(error)
        'RuntimeError: the order was not stored, caused by OSError: connection refused'
    """
    found, seen = list[str](), set[int]()
    following: BaseException | None = error
    while following is not None:
        each = _unwrapped(following)
        if id(each) in seen:
            break
        if len(found) == MAX_CAUSES:
            found.append("…")
            break
        seen.add(id(each))
        text = _text(each)
        found.append(f"{type(each).__name__}: {text}" if text else type(each).__name__)
        following = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return ", caused by ".join(found)


def in_one_line(text: str) -> str:
    r"""Return text without anything that could end the line or act on a terminal, and not long.

    Example:
        >>> in_one_line("no such order\nFAKE LINE\x1b[31m")
        'no such order FAKE LINE [31m'
    """
    cut = text[: MAX_TEXT + 1]
    shown = " ".join("".join(c if c.isprintable() else " " for c in cut).split())
    return shown if len(text) <= MAX_TEXT else f"{shown[:MAX_TEXT]}…"


def _text(error: BaseException) -> str:
    try:
        return in_one_line(str(error))
    except Exception:  # noqa: BLE001 - a hostile __str__ must not hide the error
        return ""


def _unwrapped(error: BaseException) -> BaseException:
    """Return the one error of a group, as task groups make them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
