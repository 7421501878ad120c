"""Checks the attributes of an envelope, which come from outside."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC
from functools import cache
from typing import TYPE_CHECKING, cast

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from common.context import parse_trace
from common.domain import Message
from common.events.core._envelope import (
    CONTENT_TYPE,
    MAX_EXTENSIONS,
    MAX_ID,
    MAX_TEXT,
    SPEC_VERSION,
    Envelope,
)

if TYPE_CHECKING:
    from pydantic import JsonValue

# CloudEvents 1.0, section "Type System": no control characters. Keys are what the data says.
_ID = core_schema.str_schema(pattern=rf"^[^\x00-\x1f\x7f-\x9f]{{1,{MAX_ID}}}$")
_TEXT = core_schema.str_schema(pattern=rf"^[^\x00-\x1f\x7f-\x9f]{{1,{MAX_TEXT}}}$")
_KEY = core_schema.str_schema(min_length=1, max_length=MAX_TEXT)
# RFC 3339, section 5.6; pydantic alone would take a number of seconds, too.
_TIME = core_schema.str_schema(
    pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,12})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_TRACEPARENT = core_schema.str_schema(pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_TRACESTATE = core_schema.str_schema(pattern="^[ -~]{1,512}$")

_FIELDS = {
    "id": "id",
    "type": "type",
    "source": "source",
    "subject": "subject",
    "time": "time",
    "dataschema": "dataschema",
    "specversion": "specversion",
    "datacontenttype": "datacontenttype",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "tenant": "tenant",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
"""Field of `Envelope` by name of the attribute."""
_REQUIRED = {"id", "type", "source", "specversion"}

_JSON = re.compile(r"(application|text)/([\w.!#$&^+-]+\+)?json[ \t]*(;.*)?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class AttributesError(ValueError):
    """An attribute is missing or malformed; tells which, without its value."""


def one_pass(cls: type[Message], dataschema: str) -> Callable[[bytes], Envelope | None]:
    """Return what reads a structured body whose data is of the class's own version.

    The result is ``None`` when anything is unusual: the long way then finds out what.
    """
    cls.model_rebuild()  # builds what is deferred, or does nothing
    schemas: dict[str, CoreSchema] = {
        **_schemas(core_schema.datetime_schema(tz_constraint=0)),
        "type": core_schema.literal_schema([cls.__message__.type]),
        "dataschema": core_schema.literal_schema([dataschema]),
        "datacontenttype": core_schema.literal_schema([CONTENT_TYPE]),
        "traceparent": _TRACEPARENT,
        "tracestate": _TRACESTATE,
        "data": cls.__pydantic_core_schema__,
    }
    validate = _validator(schemas, required={*_REQUIRED, "dataschema", "data"}).validate_json

    def read(body: bytes) -> Envelope | None:
        try:
            return cast("Envelope", validate(body))
        except ValidationError:
            return None

    return read


def read_attributes(attributes: Mapping[str, object]) -> Envelope:
    """Return the envelope for attributes as they came, ``None`` meaning absent (JSON format, 2.2).

    A malformed ``traceparent`` is dropped, and ``tracestate`` with it: whoever receives one has
    to act as if there were none (W3C Trace Context, level 2, section 3.2), and no message may
    be lost to telemetry.

    Raises:
        AttributesError: One is missing or malformed, or there are too many.
    """
    known: dict[str, object] = {"datacontenttype": CONTENT_TYPE}
    extensions: dict[str, object] = {}
    for name, value in attributes.items():
        if value is not None:
            (known if name in _FIELDS else extensions)[name] = value
    content_type = known["datacontenttype"]
    if not (isinstance(content_type, str) and _JSON.fullmatch(content_type)):
        raise AttributesError("its datacontenttype is another than application/json")
    if len(extensions) > MAX_EXTENSIONS:
        raise AttributesError(f"it has more than {MAX_EXTENSIONS} extension attributes")
    if not all(map(_NAME.fullmatch, extensions)):
        raise AttributesError("an extension's name is not 1 to 64 letters, digits, _ and -")
    traceparent = known.get("traceparent")
    tracestate = known.pop("tracestate", None)
    if not isinstance(traceparent, str) or parse_trace(traceparent) is None:
        known.pop("traceparent", None)
    elif isinstance(tracestate, str):
        known["tracestate"] = tracestate
    envelope = _validated(known)
    time = envelope.time
    try:
        time = time and time.astimezone(UTC)
    except OverflowError:
        raise AttributesError("its time lies outside of the years 1 to 9999 in UTC") from None
    return replace(
        envelope,
        time=time,
        extensions=cast("Mapping[str, JsonValue]", extensions),
    )


def _validated(attributes: dict[str, object]) -> Envelope:
    try:
        return cast("Envelope", _any().validate_python(attributes))
    except ValidationError as error:
        wrong = sorted({str(each["loc"][0]) for each in error.errors(include_input=False)})
    # Not above: the error quotes the data. The names are ours, others are extensions.
    raise AttributesError(f"its {' and '.join(wrong)} is missing or malformed")


def _schemas(time: CoreSchema) -> dict[str, CoreSchema]:
    return {
        "id": _ID,
        "type": _TEXT,
        "source": _TEXT,
        "subject": _KEY,
        "time": core_schema.chain_schema([_TIME, time]),
        "dataschema": _TEXT,
        "specversion": core_schema.literal_schema([SPEC_VERSION]),
        "datacontenttype": _TEXT,
        "correlationid": _ID,
        "causationid": _ID,
        "tenant": _ID,
        "traceparent": core_schema.str_schema(),
        "tracestate": core_schema.str_schema(),
    }


def _validator(schemas: Mapping[str, CoreSchema], *, required: set[str]) -> SchemaValidator:
    """Return a validator that makes envelopes; attributes it does not know are refused."""
    defaults = {"dataschema": "", "datacontenttype": CONTENT_TYPE}
    fields = [
        core_schema.dataclass_field(
            {"data": "_data", **_FIELDS}[name],
            schema
            if name in required
            else core_schema.with_default_schema(schema, default=defaults.get(name)),
            validation_alias=name,
            kw_only=True,
        )
        for name, schema in schemas.items()
    ]
    none = core_schema.with_default_schema(core_schema.dict_schema(), default_factory=dict)
    # Not to be given: an attribute of this name is an extension like any other.
    fields.append(core_schema.dataclass_field("extensions", none, init=False))
    return SchemaValidator(
        core_schema.dataclass_schema(
            Envelope,
            core_schema.dataclass_args_schema("Envelope", fields, extra_behavior="forbid"),
            [field["name"] for field in fields],
            slots=True,
        )
    )


@cache
def _any() -> SchemaValidator:
    # Built at first use, which keeps the import fast.
    return _validator(
        _schemas(core_schema.datetime_schema(tz_constraint="aware")), required=_REQUIRED
    )
