# Misuse on purpose, and JSON values without narrowing:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportFunctionMemberAccess=false, reportIndexIssue=false, reportMissingTypeArgument=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportUnusedClass=false

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import AppError, UpstreamServiceError, classify_http, parse_retry_after

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "name", "retryable"),
    [
        (301, "UpstreamServiceError", False),
        (400, "UpstreamServiceError", False),
        (401, "UpstreamServiceError", False),
        (403, "UpstreamServiceError", False),
        (404, "NotFoundError", False),
        (405, "UpstreamServiceError", False),
        (408, "RequestTimeoutError", True),
        (409, "ConflictError", False),
        (410, "NotFoundError", False),
        (412, "ConflictError", False),
        (418, "UpstreamServiceError", False),
        (422, "UpstreamServiceError", False),
        (425, "UpstreamServiceError", True),
        (429, "RateLimitedError", True),
        (500, "UpstreamServiceError", True),
        (501, "UpstreamServiceError", False),
        (502, "UpstreamServiceError", True),
        (503, "ServiceUnavailableError", True),
        (504, "RequestTimeoutError", True),
        (505, "UpstreamServiceError", False),
        (511, "UpstreamServiceError", False),
        (522, "UpstreamServiceError", True),
        (999, "UpstreamServiceError", False),
    ],
)
def test_each_status_has_its_error(status, name, retryable):
    error = classify_http(status, service="billing")
    assert (type(error).__name__, error.retryable) == (name, retryable)
    assert error.details["upstream_status"] == status
    assert error.details["upstream_service"] == "billing"
    assert error.message == f"billing answered with HTTP status {status}"


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "ValidationError"),
        (401, "UnauthorizedError"),
        (403, "ForbiddenError"),
        (422, "ValidationError"),
        (404, "NotFoundError"),
        (405, "UpstreamServiceError"),
    ],
)
def test_a_delegated_call_blames_the_caller(status, name):
    assert type(classify_http(status, delegated=True)).__name__ == name


@pytest.mark.parametrize("status", [0, 100, 200, 204, 299])
def test_a_status_that_is_no_error_is_refused(status):
    with pytest.raises(ValueError, match="is no error"):
        classify_http(status)


def test_facts_of_the_answer_are_kept_and_secrets_of_the_url_are_not():
    cause = OSError()
    error = classify_http(
        502,
        endpoint="https://user:hunter2@billing/v1/invoices?token=hunter2#hunter2",
        error="INVOICE_LOCKED",
        message="Billing failed",
        cause=cause,
    )
    assert isinstance(error, UpstreamServiceError)
    assert error.endpoint == "/v1/invoices"
    assert (error.upstream_error, error.upstream_status) == ("INVOICE_LOCKED", 502)
    assert (error.message, error.__cause__) == ("Billing failed", cause)
    assert "hunter2" not in json.dumps(error.to_dict()) + repr(error)


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("/v1/a?b=c", "/v1/a"),
        ("//u:p@host/a", "/a"),
        ("https://u:p@ss@host:8080/a@b", "/a@b"),
        ("https://host/a//b", "/a//b"),
        ("https://u:p@host", "/"),
        ("https://u:p@host?a=b", "/"),
        ("/v1//a#b", "/v1//a"),
        ("", ""),
    ],
)
def test_of_an_endpoint_only_the_path_is_shown(endpoint, shown):
    assert classify_http(404, endpoint=endpoint).details["endpoint"] == shown


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_retry_after_is_kept_in_seconds(status):
    error = classify_http(status, retry_after="Sun, 01 Nov 2026 12:01:30 GMT", now=NOW)
    assert error.retry_after == 90.0
    assert error.details["retry_after"] == 90.0


def test_without_retry_after_nothing_is_said_about_it():
    error = classify_http(503)
    assert error.retry_after is None
    assert "retry_after" not in error.details


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 5\t", 5.0),
        ("007", 7.0),
        ("-5", 0.0),
        ("-" + "9" * 5000, 0.0),
        ("999999999", 86_400.0),
        ("9" * 5000, 86_400.0),
        # The three formats of RFC 9110, section 5.6.7
        ("Sun, 01 Nov 2026 12:01:00 GMT", 60.0),
        ("Sunday, 01-Nov-26 12:01:00 GMT", 60.0),
        ("Sun Nov  1 12:01:00 2026", 60.0),
        ("Sun, 01 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        # Neither
        (None, None),
        ("", None),
        ("soon", None),
        ("1.5", None),
        ("1e3", None),
        ("+5", None),
        ("5 s", None),
        ("5\n", None),
        ("٣", None),
        ("²", None),
        ("0x10", None),
        ("NaN", None),
        ("Sun", None),
        ("Sun, 99 Nov 2026 12:01:00 GMT", None),
        ("Sun, 01 Nov 2026 25:01:00 GMT", None),
        ("Sun, 01 Nov 99999999 12:01:00 GMT", None),
        ("Mon, " + "1" * 10_000, None),
        ("2026-11-01T12:01:00Z", None),
    ],
)
def test_parsing_retry_after(header, seconds):
    assert parse_retry_after(header, now=NOW) == seconds


def test_the_limit_can_be_chosen():
    assert parse_retry_after("120", limit=60) == 60


def test_dates_relate_to_the_current_time_by_default():
    later = datetime.now(UTC) + timedelta(hours=1)
    seconds = parse_retry_after(later.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    assert seconds is not None
    assert 3000 < seconds <= 3600


@given(st.text() | st.from_regex(r"(Mon|Sun),? .{0,30}"), st.integers(300, 599), st.booleans())
def test_no_header_makes_it_raise(header, status, delegated):
    error = classify_http(status, retry_after=header, endpoint=header, delegated=delegated)
    assert isinstance(error, AppError)
    seconds = getattr(error, "retry_after", None)
    assert seconds is None or 0 <= seconds <= 86_400
