"""The root of all errors raised on purpose, and its three branches."""

from __future__ import annotations

import os
import sys
import time

from common.errors._fields import DeclaredError, field
from common.errors._json import json_safe, json_safe_mapping, safe_text

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar, TypeGuard

    from common.errors._json import JsonValue


class AppError(DeclaredError):
    """Base of every error that is raised on purpose.

    A subclass states its stable ``code``, its HTTP ``status`` and, when callers need them,
    detail fields. Each annotated attribute is a keyword argument of the constructor and lands
    in ``details`` unless it is ``None``:

        >>> from common.errors import ConflictError
        >>> class OrderClosedError(ConflictError):
        ...     code = "ORDER_CLOSED"
        ...     order_id: str | None = None
        >>> OrderClosedError("The order is closed", order_id="o-1").to_dict()
        {'code': 'ORDER_CLOSED', 'message': 'The order is closed', 'details': {'order_id': 'o-1'}}

    Args:
        message: What happened, for the caller of the API; never put secrets into it. Without
            it ``default_message`` is used, or else a sentence made from the code.
        code: Overrides the class's ``code`` for this instance.
        status: Overrides the class's ``status`` for this instance.
        details: Further facts for the caller; converted to JSON and bounded by `json_safe`.
        cause: Becomes ``__cause__``.

    Attributes:
        code: Stable identifier on which callers may rely.
        status: HTTP status that fits the error.
        retryable: Whether the same call may succeed later without any change.
        default_message: The message when the constructor is given none.

    Raises:
        TypeError: On declaring a class with a ``code`` that another class has already (at
            import of that class), or on unknown or missing arguments.
        ValueError: If the ``code`` or ``status`` given to an instance is malformed.
    """

    code = "INTERNAL_ERROR"
    status = 500
    retryable = False
    default_message: ClassVar[str | None] = None

    _message: str | None = field(default=None, alias="message", kw_only=False, public=False)
    _code: str | None = field(default=None, alias="code", public=False)
    _status: int | None = field(default=None, alias="status", public=False)
    _details: Mapping[str, object] | None = field(default=None, alias="details", public=False)
    _cause: BaseException | None = field(default=None, alias="cause", public=False)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "code" in cls.__dict__:
            _claim(cls.code, cls)
        if not _is_status(cls.status):
            raise TypeError(f"{cls.__qualname__}.status is {cls.status!r}: {_STATUS_RULE}")

    def _settle(self) -> None:
        own: dict[str, Any] = {name: self.__dict__.pop(name) for name in _OWN}
        if own["_code"] is not None:
            if not _is_code(own["_code"]):
                raise ValueError(f"code={own['_code']!r} is no error code: {_CODE_RULE}")
            self.code = own["_code"]
        if own["_status"] is not None:
            if not _is_status(own["_status"]):
                raise ValueError(f"status={own['_status']!r} is no HTTP status: {_STATUS_RULE}")
            self.status = own["_status"]
        if own["_cause"] is not None:
            self.__cause__ = own["_cause"]
        if own["_message"] is None:
            own["_message"] = self.default_message or _sentence(self.code)
        self.args = (safe_text(own["_message"]),)
        self._json_details = json_safe_mapping({**(own["_details"] or {}), **self._facts()})

    @property
    def message(self) -> str:
        """What happened, as it may be shown to the caller."""
        return str(self.args[0])

    @property
    def details(self) -> dict[str, JsonValue]:
        """Facts for the caller, safe for JSON; fields that are ``None`` are left out."""
        return self._json_details

    def to_dict(self) -> dict[str, JsonValue]:
        """Return what the caller may see: ``code``, ``message`` and ``details``."""
        return {"code": self.code, "message": self.message, "details": json_safe(self.details)}

    def _facts(self) -> dict[str, object]:
        return {
            each.attribute: value
            for each in type(self)._fields.values()
            if each.public and (value := self.__dict__.get(each.attribute)) is not None
        }

    def __repr__(self) -> str:
        details = f", details={self.details!r}" if self.details else ""
        return f"{type(self).__name__}({self.message!r}, code={self.code!r}{details})"

    def __reduce__(self) -> tuple[Callable[..., AppError], tuple[object, ...], dict[str, object]]:
        # BaseException would call the constructor with `args`, which loses or breaks fields.
        state = {name: _picklable(value) for name, value in self.__dict__.items()}
        return _rebuild, (type(self), self.args), state


_OWN = ("_message", "_code", "_status", "_details", "_cause")
_CODE_RULE = "use capitals, digits and _, such as ORDER_CLOSED"
_STATUS_RULE = "give an HTTP status, 100 to 599"
_owners: dict[str, tuple[str, str, str]] = {}


def _is_code(code: object) -> TypeGuard[str]:
    return isinstance(code, str) and code.isascii() and code.isidentifier() and code.isupper()


def _is_status(status: object) -> bool:
    return isinstance(status, int) and 100 <= status <= 599


def _claim(code: object, cls: type[AppError]) -> None:
    """Make ``cls`` the one class that declares ``code``.

    Classes are compared by the file and the name they come from, so that reloading a module
    and running it as ``__main__`` beside importing it are not taken for a second class.
    """
    if not _is_code(code):
        raise TypeError(f"{cls.__module__}.{cls.__qualname__}.code is {code!r}: {_CODE_RULE}")
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__
    name = f"{cls.__module__}.{cls.__qualname__}"
    other = _owners.setdefault(code, (file, cls.__qualname__, name))
    if other[:2] != (file, cls.__qualname__):
        raise TypeError(
            f"{name} declares the error code {code}, which {other[2]} has already: choose "
            "another code, or leave it out to share the parent's"
        )


def _sentence(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _rebuild(cls: type[AppError], arguments: tuple[object, ...]) -> AppError:
    error = cls.__new__(cls, *arguments)
    error.args = arguments  # a class that is an OSError too does not take them in __new__
    return error


def _picklable(value: object) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    import pickle  # noqa: PLC0415 - only needed here; nothing is loaded

    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - objects raise all kinds of errors when they cannot
        return json_safe(value)
    return value


class DomainError(AppError):
    """The request cannot be fulfilled as it is; repeating it unchanged will not help."""

    code = "DOMAIN_ERROR"
    status = 400


class InfrastructureError(AppError):
    """Something this service depends on failed; the same call may succeed later.

    Args:
        message: See `AppError`.
        service: The dependency that failed.
        retryable: Whether the same call may succeed later; by default what the class says.
        retry_after: Seconds to wait before the next attempt, when the dependency told.
    """

    code = "INFRASTRUCTURE_ERROR"
    status = 503
    retryable = True

    service: str | None = None
    retry_after: float | None = None
    _retryable: bool | None = field(default=None, alias="retryable", public=False)

    def _settle(self) -> None:
        override: bool | None = self.__dict__.pop("_retryable")
        if override is not None:
            self.retryable = override
        super()._settle()

    def _facts(self) -> dict[str, object]:
        return {**super()._facts(), "retryable": self.retryable}


class InternalError(AppError):
    """A defect of this service. What the caller sees never carries internals.

    The message given stays on the log's side: it is `internal_message` and a note of the
    traceback, while ``message``, ``str()`` and ``to_dict()`` show the class's default message.
    ``details`` given are likewise for the log only. ``error_id``, which both sides show, leads
    from one to the other.

    Args:
        message: What went wrong, for the log only.
        error_id: Id under which the log shows the error; a new UUIDv7 unless given.

    Example:
        >>> error = InternalError("no such column: pasword", error_id="e-1")
        >>> error.to_dict()["message"], error.internal_message
        ('An unexpected error occurred', 'no such column: pasword')
    """

    code = "INTERNAL_ERROR"
    status = 500
    default_message = "An unexpected error occurred"

    error_id: str | None = None

    def _settle(self) -> None:
        given: object = self.__dict__.pop("_message")
        self._message = None
        self.internal_message: str | None = None if given is None else safe_text(given)
        self.error_id = self.error_id or _new_id()
        super()._settle()
        if self.internal_message:
            self.add_note(self.internal_message)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return what the caller may see: the default message and the ``error_id``."""
        return {
            "code": self.code,
            "message": self.message,
            "details": {"error_id": self.error_id},
            "error_id": self.error_id,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, error_id={self.error_id!r})"


def _new_id() -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7)."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
