# This file makes values of every annotation there is.
# pyright: reportArgumentType=false

"""Whatever a declared message holds comes back from its envelope as it was, in both modes."""

import types
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from common.context import Context, Trace, new_trace
from common.domain import Message, registry
from common.domain.catalog import CatalogItem
from common.events.core._codec import Codec, Mode
from common.events.core._decoder import Decoder

OWN = [cls for cls in registry.all() if cls.__module__.startswith("common.domain.")]

# Without an offset, as hypothesis wants them; a day is kept from either end of the calendar.
FIRST, LAST = datetime(1, 1, 3), datetime(9999, 12, 29)  # noqa: DTZ001

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
# Most text breaks these rules; what fits them is made directly.
PATTERNS = {
    "phone_number": st.from_regex(r"\A\+[1-9][0-9]{1,14}\Z"),
    "email": st.from_regex(r"\A[a-z+]{1,20}@[a-zü]{1,10}\.[a-z]{2,5}\Z"),
    "cron_expression": st.sampled_from(["* * * * *", "0 */5 1-7 * * MON"]),
    "timezone": st.sampled_from(["UTC", "Europe/Berlin"]),
    "webhook_url": st.from_regex(r"\Ahttps?://[!-~]{1,20}\Z"),
    "interval_seconds": st.integers(1, 10**9),
    "priority": st.integers(1, 10),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is AwareDatetime:
        zones = st.timezones() | st.just(UTC)
        return st.datetimes(FIRST, LAST, timezones=zones)
    if origin is Annotated:
        return values(arguments[0])
    if origin in {Union, types.UnionType}:
        return st.one_of([values(each) for each in arguments])
    if origin is dict and arguments[1] is JsonValue:
        return st.dictionaries(texts, json_data, max_size=3)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if annotation is type(None):
        return st.none()
    if annotation is str:
        return texts
    if annotation is int:
        return st.integers(0, 10**12)
    if annotation is float:
        return st.floats(0, allow_infinity=False)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return st.deferred(lambda: models(annotation))
    return st.from_type(annotation)


def field_values(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    if name in PATTERNS:
        made = PATTERNS[name]
        return made | st.none() if type(None) in get_args(field.annotation) else made
    return values(field.annotation)


def models(cls: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    fields = {name: field_values(name, field) for name, field in cls.model_fields.items()}
    if cls is CatalogItem:
        fields["vendor_field"] = json_data
    return st.fixed_dictionaries(fields).map(lambda data: attempt(cls, data))


def attempt(cls: type[BaseModel], data: dict[str, Any]) -> BaseModel:
    try:
        return cls.model_validate(data)
    except ValidationError:  # a length or a cross-field rule: another example
        assume(False)
        raise


ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=256)
labels = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
contexts = st.builds(
    Context,
    correlation_id=st.none() | labels,
    tenant=st.none() | labels,
    trace=st.none() | st.just(Trace("a" * 32, "b" * 16, 1, (("k", "v@1"), ("congo", "t61 x")))),
)
times = st.datetimes(FIRST, LAST, timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-7))))


def unread() -> dict[str, str]:
    raise AssertionError("headers were parsed although the body tells everything")


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__message__.type)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_type_survives_its_envelope(cls: type[Message], mode: Mode, data: st.DataObject):
    message = data.draw(models(cls))
    id, time, context = data.draw(ids), data.draw(times), data.draw(contexts)  # noqa: A001
    causation = data.draw(st.none() | ids)
    info = cls.__message__

    body, headers = Codec(source="/test", mode=mode).encode(
        message, id=id, time=time, context=context, causation_id=causation
    )
    envelope, again = Decoder([cls]).decode(
        info.subject, headers if mode == "binary" else unread, body
    )

    assert type(again) is cls
    assert again == message
    assert (envelope.id, envelope.type, envelope.version) == (id, info.type, info.version)
    assert envelope.subject == (info.key_of(message) or None)
    assert envelope.time == time
    assert envelope.time is not None
    assert envelope.time.utcoffset() == timedelta(0)
    assert (envelope.source, envelope.tenant) == ("/test", context.tenant)
    assert envelope.correlation_id == (context.correlation_id or id)
    assert envelope.causation_id == causation
    assert envelope.trace is not None
    if context.trace is not None:
        assert envelope.trace.trace_id == context.trace.trace_id
        assert envelope.trace.tracestate == context.trace.tracestate
        assert envelope.trace.span_id != context.trace.span_id
    assert not envelope.extensions
    if mode == "structured":
        assert not headers
    else:
        assert body == message.model_dump_json().encode()
        assert all(0x21 <= ord(char) <= 0x7E for value in headers.values() for char in value)


def test_nothing_of_the_domain_is_left_out():
    # Beside types which other tests, and the blocks of README files, have declared meanwhile.
    assert len(OWN) == sum(each.__module__.startswith("common.domain.") for each in registry) > 30
    assert new_trace() != new_trace()
