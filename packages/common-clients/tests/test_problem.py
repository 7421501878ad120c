"""What is taken from the body of an error."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.clients import Problem, problem_of
from common.clients._problem import attach, parse_problem
from common.errors import (
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    UpstreamServiceError,
    classify_http,
)

PROBLEM = "application/problem+json"


def parsed(document, kind=PROBLEM):
    return parse_problem(json.dumps(document).encode(), kind)


def test_a_problem_document_is_read():
    document = {
        "type": "https://x/sold-out",
        "title": "Sold out",
        "status": 409,
        "detail": "None left",
        "instance": "/items/1",
        "code": "SOLD_OUT",
        "more": [1],
    }
    assert parsed(document, PROBLEM + "; charset=utf-8") == Problem(
        type="https://x/sold-out",
        title="Sold out",
        status=409,
        detail="None left",
        instance="/items/1",
        code="SOLD_OUT",
    )
    assert parsed(document, "application/json") == parsed(document)


def test_an_envelope_is_read():
    document = {"success": False, "error": {"code": "NO_ACCOUNT", "message": "No account"}}
    assert parsed(document, "application/json") == Problem(title="No account", code="NO_ACCOUNT")


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("shape", [lambda e: e, lambda e: {"details": e}], ids=["flat", "details"])
def test_whether_repeating_is_of_use_is_read_in_both_styles(shape, said):
    error = shape({"retryable": said})
    for problem in (
        parsed({"error": {"code": "X", **error}}, "application/json"),
        parsed({"title": "X", **error}),
    ):
        assert problem
        assert problem.retryable is said


@pytest.mark.parametrize("said", [0, None, "false", [], {}], ids=repr)
def test_what_is_no_yes_or_no_says_nothing_of_repeating(said):
    for error in ({"retryable": said}, {"details": {"retryable": said}}, {"details": said}):
        problem = parsed({"error": error}, "application/json")
        assert problem
        assert problem.retryable is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, ServiceUnavailableError), (500, UpstreamServiceError), (429, RateLimitedError)],
)
def test_who_says_that_repeating_is_of_no_use_makes_an_error_that_is_not_retryable(status, kind):
    error = classify_http(status, service="billing")
    assert error.retryable
    attach(error, Problem(retryable=False))
    assert type(error) is kind
    assert not error.retryable
    assert not error.details.get("retryable")
    assert "of no use" in error.__notes__[0]


def test_who_says_that_repeating_is_of_use_changes_nothing():
    error = classify_http(501, service="billing")
    attach(error, Problem(retryable=True))
    assert not error.retryable
    assert error.details["retryable"] is False
    assert not hasattr(error, "__notes__")


def test_wrong_types_are_left_out():
    document = {"type": 1, "title": ["x"], "status": "409", "detail": None, "code": "a b\n"}
    assert parsed(document) == Problem()
    assert parsed({"error": {"code": 7, "message": {}}}, "application/json") == Problem()


def test_texts_are_bounded_and_have_no_control_characters():
    problem = parsed({"title": "a\r\n\x1b[31mb\u2028c", "detail": "d" * 10_000, "code": "C" * 129})
    assert problem
    assert problem.title == "a [31mb c"
    assert len(problem.detail or "") == 1000
    assert problem.code is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", PROBLEM),
        (b"[" * 100_000, PROBLEM),
        (b"[" * 50_000, PROBLEM),
        (b"[]", PROBLEM),
        (b"\xff", PROBLEM),
        (b'{"title": "x"}', "text/html"),
        (b'{"title": "x"}', ""),
        (b'{"id": 1}', "application/json"),
        (b'{"title": "' + b"x" * 100_000 + b'"}', PROBLEM),
    ],
    ids=range(9),
)
def test_what_is_no_problem_is_none(content, kind):
    assert parse_problem(content, kind) is None


@settings(deadline=None)
@given(st.binary(), st.sampled_from([PROBLEM, "application/json"]))
def test_no_body_raises(content, kind):
    parse_problem(content, kind)


def test_a_problem_is_no_detail_that_is_shown():
    error = NotFoundError("No such item")
    assert problem_of(error) is None
    attach(error, Problem(detail="canary"))
    assert problem_of(error) == Problem(detail="canary")
    assert "canary" not in f"{error!r}{error.to_dict()}"
