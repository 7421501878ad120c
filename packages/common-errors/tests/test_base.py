# Misuse on purpose, and JSON values without narrowing:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportFunctionMemberAccess=false, reportIndexIssue=false, reportMissingTypeArgument=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportUnusedClass=false

import asyncio
import concurrent.futures
import copy
import importlib
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from functools import partial
from typing import ClassVar

import pytest

import common.errors as errors
from common.errors import (
    AppError,
    ConflictError,
    DatabaseError,
    InfrastructureError,
    InternalError,
    NotFoundError,
    RequestTimeoutError,
    ValidationError,
    field,
)

# name: base, code, status, default message, detail fields. Callers rely on each of them.
HIERARCHY = {
    "AppError": ("Exception", "INTERNAL_ERROR", 500, None, []),
    "InfrastructureError": (
        "AppError",
        "INFRASTRUCTURE_ERROR",
        503,
        None,
        ["service", "retryable"],
    ),
    "DomainError": ("AppError", "DOMAIN_ERROR", 400, None, []),
    "ValidationError": ("DomainError", "VALIDATION_ERROR", 422, None, ["field", "value"]),
    "NotFoundError": ("DomainError", "NOT_FOUND", 404, None, ["resource", "resource_id"]),
    "ConflictError": (
        "DomainError",
        "CONFLICT",
        409,
        None,
        ["conflicting_resource", "current_state"],
    ),
    "UnauthorizedError": (
        "DomainError",
        "UNAUTHORIZED",
        401,
        "Authentication required",
        ["auth_type"],
    ),
    "ForbiddenError": (
        "DomainError",
        "FORBIDDEN",
        403,
        "Insufficient permissions",
        ["required_permission", "resource"],
    ),
    "RateLimitedError": (
        "DomainError",
        "RATE_LIMITED",
        429,
        "Rate limit exceeded",
        ["limit", "window", "retry_after"],
    ),
    "ServiceUnavailableError": ("InfrastructureError", "SERVICE_UNAVAILABLE", 503, None, []),
    "RequestTimeoutError": (
        "InfrastructureError",
        "TIMEOUT",
        504,
        None,
        ["timeout_seconds", "operation"],
    ),
    "InternalError": (
        "AppError",
        "INTERNAL_ERROR",
        500,
        "An unexpected error occurred",
        ["error_id"],
    ),
    "DatabaseError": (
        "InfrastructureError",
        "DATABASE_ERROR",
        503,
        None,
        ["operation", "table", "error_code"],
    ),
    "RedisError": ("InfrastructureError", "REDIS_ERROR", 503, None, ["operation", "key"]),
    "S3Error": (
        "InfrastructureError",
        "S3_ERROR",
        503,
        None,
        ["operation", "bucket", "key", "error_code"],
    ),
    "UpstreamServiceError": (
        "InfrastructureError",
        "UPSTREAM_SERVICE_ERROR",
        503,
        None,
        ["upstream_service", "upstream_status", "upstream_error", "endpoint"],
    ),
    "CircuitOpenError": (
        "InfrastructureError",
        "CIRCUIT_OPEN",
        503,
        None,
        ["service_name", "failure_count", "open_until"],
    ),
    "MessageBusError": (
        "InfrastructureError",
        "MESSAGE_BUS_ERROR",
        503,
        None,
        ["operation", "stream", "subject"],
    ),
}


# Kept from the caller; see below.
SUBMITTED = ("ValidationError", "value")


def all_classes():
    return [getattr(errors, name) for name in HIERARCHY]


@pytest.mark.parametrize("name", HIERARCHY)
def test_each_error_has_its_base_code_status_default_message_and_fields(name):
    base, code, status, default_message, fields = HIERARCHY[name]
    cls = getattr(errors, name)
    assert base in [each.__name__ for each in cls.__mro__[1:]]
    assert (cls.code, cls.status, cls.default_message) == (code, status, default_message)
    values = {each: True if each == "retryable" else "7" for each in fields}
    error = cls("What happened", **values)
    assert {each: getattr(error, each) for each in fields} == values
    shown = {each: value for each, value in values.items() if (name, each) != SUBMITTED}
    assert shown.items() <= error.details.items()


def test_every_exported_error_is_in_the_table():
    exported = {
        name
        for name in errors.__all__
        if isinstance(getattr(errors, name), type)
        and issubclass(getattr(errors, name), BaseException)
    }
    assert exported == set(HIERARCHY)


def test_to_dict_has_the_public_shape_and_is_a_copy():
    error = NotFoundError("No such order", resource="order", resource_id=7)
    body = error.to_dict()
    assert body == {
        "code": "NOT_FOUND",
        "message": "No such order",
        "details": {"resource": "order", "resource_id": 7},
    }
    body["details"].clear()
    assert error.details == {"resource": "order", "resource_id": 7}


def test_an_instance_overrides_code_and_status_without_touching_the_class():
    error = ConflictError("Taken", code="NAME_TAKEN", status=422)
    assert (error.code, error.status, error.to_dict()["code"]) == ("NAME_TAKEN", 422, "NAME_TAKEN")
    assert (ConflictError.code, ConflictError.status) == ("CONFLICT", 409)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        *(({"code": code}, "use capitals") for code in ("bad code!", "lower", "", "A\n", 7)),
        *(({"status": status}, "give an HTTP") for status in (999, 0, 99, 600, -1, 404.0, "404")),
    ],
)
def test_an_instance_keeps_to_the_rules_of_its_class(wrong, hint):
    with pytest.raises(ValueError, match=hint):
        ConflictError("Taken", **wrong)


def test_without_a_message_the_default_message_or_the_code_speaks():
    assert str(errors.UnauthorizedError()) == "Authentication required"
    assert str(NotFoundError()) == "Not found"
    assert str(errors.UnauthorizedError("Expired")) == "Expired"
    assert NotFoundError("").message == ""


def test_cause_becomes_the_cause():
    cause = OSError("disk")
    error = AppError("Failed", cause=cause)
    assert error.__cause__ is cause
    assert error.__suppress_context__


def test_fields_that_are_none_are_left_out_and_falsy_ones_are_kept():
    error = errors.RateLimitedError(limit=0, window="", retry_after=None)
    assert error.details == {"limit": 0, "window": ""}


def test_fields_win_over_details_of_the_same_name():
    error = NotFoundError("x", resource="order", details={"resource": "basket", "more": 1})
    assert error.details == {"resource": "order", "more": 1}


def test_details_stay_json_safe_when_the_handler_adds_something():
    error = AppError("x")
    error.details["lock"] = threading.Lock()
    assert json.dumps(error.to_dict())


def test_a_message_that_is_no_string_or_cannot_be_encoded_does_no_harm():
    class Hostile:
        def __str__(self):
            raise RuntimeError

    assert AppError(Hostile()).message == "<Hostile>"
    assert AppError(ValueError("plain")).message == "plain"
    assert AppError("lone \ud800").message.encode() == b"lone ?"


# Secrets


def test_a_submitted_value_stays_on_the_attribute_only():
    error = ValidationError("Too short", field="password", value="hunter2-secret")
    assert error.value == "hunter2-secret"
    for shown in (str(error), repr(error), json.dumps(error.to_dict()), str(error.details)):
        assert "hunter2" not in shown
    assert error.args == ("Too short",)


def test_an_internal_error_shows_no_internals_to_the_caller():
    error = InternalError(
        "no column pasword in postgresql://u:secret@db", details={"sql": "secret"}
    )
    for shown in (str(error), repr(error), json.dumps(error.to_dict()), str(error.args)):
        assert "secret" not in shown
        assert "pasword" not in shown
    assert error.to_dict() == {
        "code": "INTERNAL_ERROR",
        "message": "An unexpected error occurred",
        "details": {"error_id": error.error_id},
        "error_id": error.error_id,
    }


def test_an_internal_error_tells_the_log_everything():
    error = InternalError("no column pasword", details={"sql": "select"}, error_id="e-1")
    assert error.internal_message == "no column pasword"
    assert error.__notes__ == ["no column pasword"]
    assert error.details == {"sql": "select", "error_id": "e-1"}
    assert InternalError().internal_message is None


def test_error_ids_are_new_uuid7_each_time():
    first, second = InternalError("a").error_id, InternalError("b").error_id
    assert first != second
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", first
    )


def test_a_subclass_of_internal_error_shows_its_own_default_message():
    class ReportFailedError(InternalError):
        code = "TEST_REPORT_FAILED"
        default_message = "The report could not be made"

    assert ReportFailedError("secret").to_dict()["message"] == "The report could not be made"


# Retryability of an instance


def test_an_infrastructure_error_is_retryable_unless_told_otherwise():
    assert InfrastructureError("x").retryable
    assert InfrastructureError("x").details == {"retryable": True}
    error = DatabaseError("x", retryable=False, service="orders-db")
    assert error.retryable is False
    assert error.details == {"retryable": False, "service": "orders-db"}
    assert DatabaseError.retryable


def test_a_class_may_say_that_it_is_not_retryable():
    class CorruptError(DatabaseError):
        code = "TEST_CORRUPT"
        retryable = False

    assert CorruptError("x").details == {"retryable": False}
    assert CorruptError("x", retryable=True).retryable


# Declaring


class OrderClosedError(ConflictError):
    code = "TEST_ORDER_CLOSED"
    order_id: str | None = None


class OrderPaidError(OrderClosedError):
    code = "TEST_ORDER_PAID"
    kind: ClassVar[str] = "x"
    amount: int
    payer: str | None = field(default=None, public=False)


class OrderGoneError(ConflictError):
    code = "TEST_ORDER_GONE"

    def __init__(self, order_id: str) -> None:
        super().__init__(f"Order {order_id} is gone", current_state="gone")
        self.order_id = order_id


def test_a_service_declares_its_own_error_in_three_lines():
    error = OrderClosedError("Closed", order_id="o-1", current_state="closed")
    assert error.details == {"order_id": "o-1", "current_state": "closed"}
    assert (error.status, error.code) == (409, "TEST_ORDER_CLOSED")
    assert OrderClosedError.order_id is None


def test_fields_are_inherited_and_an_annotation_without_default_is_required():
    error = OrderPaidError("Paid", amount=3, order_id="o-1", payer="Ada")
    assert error.details == {"order_id": "o-1", "amount": 3}
    assert error.payer == "Ada"
    with pytest.raises(TypeError, match=r"OrderPaidError needs the argument 'amount'"):
        OrderPaidError("Paid")


def test_unknown_arguments_are_refused_with_a_suggestion():
    with pytest.raises(TypeError, match="no field 'oder_id': did you mean 'order_id'"):
        OrderClosedError("x", oder_id="o-1")
    with pytest.raises(TypeError, match="no field 'kind'"):
        OrderPaidError("x", kind="y", amount=1)
    with pytest.raises(TypeError, match="1 positional argument, not 2"):
        OrderClosedError("x", "o-1")
    with pytest.raises(TypeError, match="'message' twice"):
        OrderClosedError("x", message="y")


def test_an_annotation_beside_code_does_not_make_it_a_field():
    class AnnotatedError(ConflictError):
        code: str = "TEST_ANNOTATED"
        status: int = 410

    assert AnnotatedError("x").to_dict()["code"] == "TEST_ANNOTATED"
    assert AnnotatedError("x", status=418).status == 418


def test_mutable_defaults_are_refused():
    with pytest.raises(TypeError, match="mutable default"):

        class ListError(ConflictError):
            names: list = []  # noqa: RUF012


def test_a_second_class_with_the_same_code_fails_with_both_names():
    with pytest.raises(TypeError) as caught:

        class OtherNotFoundError(NotFoundError):
            code = "NOT_FOUND"

    text = str(caught.value)
    assert "common.errors._domain.NotFoundError" in text
    assert "OtherNotFoundError" in text
    assert "NOT_FOUND" in text


def test_a_class_may_share_its_parents_code_by_not_declaring_one():
    class MissingOrderError(NotFoundError):
        order_id: str | None = None

    assert MissingOrderError("x").code == "NOT_FOUND"


@pytest.mark.parametrize("code", ["lower_case", "", "WITH SPACE", "TRAILING\n", 7, None])
def test_a_code_that_is_no_constant_name_is_refused(code):
    with pytest.raises(TypeError, match="use capitals"):
        type("BadCodeError", (ConflictError,), {"code": code})


def test_a_status_that_http_does_not_know_is_refused():
    with pytest.raises(TypeError, match="give an HTTP status"):
        type("BadStatusError", (ConflictError,), {"status": 0})


def test_reloading_a_module_that_declares_errors_does_not_fail(tmp_path, monkeypatch):
    (tmp_path / "reloaded_errors.py").write_text(
        "from common.errors import ConflictError\n"
        "class ReloadedError(ConflictError):\n    code = 'TEST_RELOADED'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_errors")
    first = module.ReloadedError
    assert importlib.reload(module).ReloadedError is not first
    del sys.modules["reloaded_errors"]
    importlib.import_module("reloaded_errors")
    with pytest.raises(TypeError, match=r"reloaded_errors\.ReloadedError"):
        type("AnotherError", (ConflictError,), {"code": "TEST_RELOADED"})


def test_running_a_module_that_others_import_too_does_not_fail(tmp_path):
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            from common.errors import ConflictError

            class ScriptError(ConflictError):
                code = "TEST_SCRIPT"

            if __name__ == "__main__":
                import app
                print(app.ScriptError is not ScriptError)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_an_error_may_also_be_a_builtin_exception():
    class LookupFailedError(NotFoundError, LookupError):
        code = "TEST_LOOKUP"

    class TookTooLongError(RequestTimeoutError, TimeoutError):
        code = "TEST_TOO_LONG"

    assert isinstance(LookupFailedError("x", resource="order"), LookupError)
    error = TookTooLongError("x", timeout_seconds=1.5)
    assert isinstance(error, OSError)
    assert str(error) == "x"
    assert same(copy.copy(error), error)


# Pickling and copying


def same(error, other):
    return (
        type(error) is type(other)
        and error.to_dict() == other.to_dict()
        and error.args == other.args
        and (error.code, error.status, error.retryable)
        == (other.code, other.status, other.retryable)
        and getattr(error, "__notes__", None) == getattr(other, "__notes__", None)
    )


@pytest.mark.parametrize("cls", all_classes())
@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda e, n=n: pickle.loads(pickle.dumps(e, n))
            for n in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_every_error_survives_pickling_and_copying(cls, again):
    error = cls("What happened", code="OTHER", status=418, details={"a": [1, {"b": None}]})
    error.add_note("while testing")
    error.retryable = True
    assert same(again(error), error)


def test_errors_with_a_constructor_of_their_own_survive_pickling():
    error = OrderGoneError("o-1")
    again = pickle.loads(pickle.dumps(error))
    assert same(again, error)
    assert again.order_id == "o-1"


def test_a_private_field_survives_pickling():
    again = pickle.loads(pickle.dumps(ValidationError("x", field="f", value=b"\0")))
    assert (again.field, again.value) == ("f", b"\0")


def test_a_field_that_cannot_be_pickled_is_replaced():
    again = pickle.loads(pickle.dumps(NotFoundError("x", resource_id=threading.Lock())))
    assert again.resource_id == "<lock>"


# Not a function of this module: the worker could not import it, as tests have no importable name.
FAIL = partial(
    exec,
    "from common.errors import NotFoundError\n"
    "error = NotFoundError('x', resource='order', resource_id=7)\n"
    "error.add_note('in the worker')\n"
    "raise error",
)


def test_errors_cross_processes():
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(NotFoundError) as caught,
    ):
        pool.submit(FAIL).result()
    assert caught.value.details == {"resource": "order", "resource_id": 7}
    assert caught.value.__notes__ == ["in the worker"]


async def test_errors_cross_tasks_with_their_cause():
    async def fail():
        raise AppError("x", cause=OSError("disk"))

    with pytest.raises(AppError) as caught:
        await asyncio.gather(fail())
    assert isinstance(caught.value.__cause__, OSError)
