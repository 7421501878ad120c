"""The ``traceparent`` header of W3C Trace Context, level 2 (section 3.2)."""

from __future__ import annotations

from common.context._digits import random_digits
from common.context._frozen import Frozen, setters
from common.context._tracestate import (
    MAX_MEMBERS,
    format_tracestate,
    parse_tracestate,
    valid_member,
)

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Iterable

SAMPLED = 0x01
RANDOM = 0x02
_KNOWN_FLAGS = SAMPLED | RANDOM
_HEX = "0123456789abcdef"
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class Trace(Frozen):
    """The trace to which the current work belongs (immutable).

    Attributes:
        trace_id: 32 lowercase hexadecimal digits, not all zero.
        span_id: 16 lowercase hexadecimal digits, not all zero; ``parent-id`` in the header.
        flags: `sampled` (1) and `random` (2); other bits are reserved and always sent as zero.
        tracestate: What tracing systems carry along, most recent first.

    Raises:
        ValueError: If an id or a member of the tracestate is malformed.
    """

    __slots__ = ("flags", "span_id", "trace_id", "tracestate")

    flags: int
    span_id: str
    trace_id: str
    tracestate: tuple[tuple[str, str], ...]

    def __init__(
        self,
        trace_id: str,
        span_id: str,
        flags: int = 0,
        tracestate: tuple[tuple[str, str], ...] = (),
    ) -> None:
        if not _is_id(trace_id, 32) or not _is_id(span_id, 16):
            raise ValueError(
                "a trace id is 32 and a span id 16 lowercase hexadecimal digits, not all zero"
            )
        if tracestate != ():
            # The caller's list could change after the check.
            tracestate = tuple((key, value) for key, value in tracestate)
            if not all(valid_member(key, value) for key, value in tracestate):
                raise ValueError("a member of the tracestate is malformed: see Trace.with_state")
        _set_trace_id(self, trace_id)
        _set_span_id(self, span_id)
        _set_flags(self, flags & _KNOWN_FLAGS)
        _set_tracestate(self, tracestate)

    @property
    def sampled(self) -> bool:
        """Whether the caller may have recorded this trace."""
        return bool(self.flags & SAMPLED)

    @property
    def random(self) -> bool:
        """Whether at least the last 7 bytes of the trace id are random (level 2)."""
        return bool(self.flags & RANDOM)

    @property
    def traceparent(self) -> str:
        """The ``traceparent`` header, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @property
    def tracestate_header(self) -> str:
        """The ``tracestate`` header of at most 512 characters; empty when there is none."""
        return format_tracestate(self.tracestate)

    def child(self, span_id: str | None = None, *, sampled: bool | None = None) -> Trace:
        """Return the same trace with another span, by default a new one.

        Args:
            span_id: The new span.
            sampled: Whether it is recorded; by default as before.
        """
        flags = self.flags
        if sampled is not None:
            flags = flags | SAMPLED if sampled else flags & ~SAMPLED
        if span_id is None:
            return _checked(self.trace_id, random_digits(), flags, self.tracestate)
        return Trace(self.trace_id, span_id, flags, self.tracestate)

    def with_state(self, key: str, value: str) -> Trace:
        """Return the same trace with ``key=value`` leftmost in its tracestate.

        The rightmost members give way when there are more than 32.

        Raises:
            ValueError: If the key or the value breaks the rules of the header.
        """
        if not valid_member(key, value):
            raise ValueError(
                f"tracestate cannot hold {key!r}: a key has lowercase letters, digits and "
                "_-*/@ (at most 256), a value printable ASCII without , and = (at most 256)"
            )
        others = tuple(member for member in self.tracestate if member[0] != key)
        state = ((key, value), *others)[:MAX_MEMBERS]
        return Trace(self.trace_id, self.span_id, self.flags, state)

    def __repr__(self) -> str:
        return f"Trace({self.traceparent!r}, tracestate={self.tracestate_header!r})"


# For whoever makes one: it is frozen, and object.__setattr__ takes longer.
_set_flags, _set_span_id, _set_trace_id, _set_tracestate = setters(Trace)


def new_trace(*, sampled: bool = False) -> Trace:
    """Start a trace with random ids.

    Args:
        sampled: Whether it is recorded. The default leaves the decision to others, for which
            the specification wants 0 (section 3.2.2.5.1).
    """
    flags = RANDOM | (SAMPLED if sampled else 0)
    return _checked(random_digits() + random_digits(), random_digits(), flags, ())


def parse_trace(
    traceparent: str | Iterable[str], tracestate: str | Iterable[str] = ()
) -> Trace | None:
    """Return the trace of the given headers, or ``None`` when it has to be restarted.

    Args:
        traceparent: The header; several of them are as bad as none.
        tracestate: One or several headers. They are not looked at when ``traceparent`` is
            invalid, and an invalid one does not harm ``traceparent``.

    Example:
        >>> parse_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").sampled
        True
        >>> parse_trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
        True
    """
    headers = [traceparent] if isinstance(traceparent, str) else list(traceparent)
    if len(headers) != 1:
        return None
    # version - trace-id - parent-id - flags, and from version 01 on perhaps more
    text = headers[0].strip(" \t")
    version, trace_id, span_id, flags = text[:2], text[3:35], text[36:52], text[53:55]
    if (
        len(text) < 55
        or text[2] + text[35] + text[52] != "---"
        or not _is_hex(version + trace_id + span_id + flags)
        or version == "ff"
        or trace_id == _NO_TRACE
        or span_id == _NO_SPAN
        or (len(text) > 55 and (version == "00" or text[55] != "-"))
    ):
        return None
    members = parse_tracestate(tracestate) if tracestate else ()
    return _checked(trace_id, span_id, int(flags, 16), members)


def _checked(
    trace_id: str, span_id: str, flags: int, tracestate: tuple[tuple[str, str], ...]
) -> Trace:
    """Make a trace of parts that were checked: once is enough for every message and request."""
    trace = Trace.__new__(Trace)
    _set_trace_id(trace, trace_id)
    _set_span_id(trace, span_id)
    _set_flags(trace, flags & _KNOWN_FLAGS)
    _set_tracestate(trace, tracestate)
    return trace


def _is_id(text: str, length: int) -> bool:
    return len(text) == length and _is_hex(text) and text.strip("0") != ""


def _is_hex(text: str) -> bool:
    return not text.strip(_HEX)  # the fastest way to ask: what is left is no digit
