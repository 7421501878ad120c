"""What is known about the current unit of work, W3C Trace Context, and operations to observe."""

from common.context._baggage import BaggageValue, format_baggage, parse_baggage
from common.context._context import Context, bind, current
from common.context._deadline import DeadlineExceeded, check_deadline, deadline, remaining
from common.context._headers import extract, inject
from common.context._ids import new_id, valid_id
from common.context._observers import Observation, Observer, observe, observer_failures
from common.context._operation import KINDS, Operation, current_operation, operation
from common.context._shielded import shielded
from common.context._trace import Trace, new_trace, parse_trace
from common.context._tracestate import format_tracestate, parse_tracestate

__all__ = [
    # The current unit of work
    "Context",
    "bind",
    "current",
    # Its deadline
    "DeadlineExceeded",
    "check_deadline",
    "deadline",
    "remaining",
    # To its end in spite of cancellation
    "shielded",
    # What it does
    "KINDS",
    "Observation",
    "Observer",
    "Operation",
    "current_operation",
    "observe",
    "observer_failures",
    "operation",
    # Between services
    "BaggageValue",
    "Trace",
    "extract",
    "format_baggage",
    "format_tracestate",
    "inject",
    "new_id",
    "new_trace",
    "parse_baggage",
    "parse_trace",
    "parse_tracestate",
    "valid_id",
]
