# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOptionalSubscript=false, reportGeneralTypeIssues=false
# pyright: reportInvalidTypeForm=false

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, NewType, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypeAliasType, TypedDict

from common.domain import (
    MASK,
    Event,
    PhoneNumber,
    Registry,
    Sensitive,
    ValueObject,
    masked,
    registry,
    sensitive_fields,
)
from common.domain.calls import CallCompleted
from common.domain.notification import Recipient, SendEmail, SendEmailBulk

mine = Registry()


class Person(ValueObject):
    name: str
    phone: PhoneNumber | None = None
    friends: list["Person"] = Field(default_factory=list)


class Book(Event, type="book.kept", registry=mine):
    numbers: list[PhoneNumber]
    people: dict[str, Person] = Field(default_factory=dict)
    best: Annotated[Person | None, "the best"] = None
    pin: Annotated[str, Sensitive()] = ""


Phone: Any = NewType("Phone", PhoneNumber)
Phones = TypeAliasType("Phones", list[PhoneNumber])
People = TypeAliasType("People", list[Person])
T = TypeVar("T")
Listed = TypeAliasType("Listed", list[T], type_params=(T,))


class Aliased(Event, type="book.aliased", registry=mine):
    new: Phone = Field(default="+4930901820")
    phones: Phones = Field(default_factory=list)
    people: People = Field(default_factory=list)
    listed: Listed[PhoneNumber] = Field(default_factory=list)


def test_marks_are_found_in_aliases_and_new_types():
    assert sensitive_fields(Aliased) == {"new", "phones", "people.phone", "listed"}
    number = "+4930901820"
    aliased = Aliased(phones=[number], people=[Person(name="A", phone=number)], listed=[number])
    assert number not in repr(aliased)
    assert number not in str(masked(aliased))


class Plain(BaseModel):
    phone: PhoneNumber


@dataclass
class Data:
    phone: PhoneNumber


class Typed(TypedDict):
    phone: PhoneNumber


class Named(NamedTuple):
    phone: PhoneNumber


@pytest.mark.parametrize("base", [ValueObject, Event])
@pytest.mark.parametrize("nested", [Plain, Data, Typed, Named])
def test_classes_in_which_marks_would_be_lost_are_refused_at_declaration(base, nested):
    alias: Any = TypeAliasType("alias", dict[str, nested])
    for annotation in (nested, list[nested] | None, alias):
        with pytest.raises(TypeError, match=f"Bad.x holds {nested.__name__}, .*derive"):
            type("Bad", (base,), {"__annotations__": {"x": annotation}})


class Early(ValueObject):
    later: "Late | None" = None


class Late(BaseModel):
    phone: PhoneNumber


def test_such_a_class_declared_later_is_refused_at_first_use():
    with pytest.raises(TypeError, match=r"Early\.later holds Late"):
        Early(later={"phone": "+4930901820"})


def recipient() -> Recipient:
    return Recipient(
        merchant_id=UUID(int=1),
        merchant_domain="shop.example",
        email="hidden@shop.example",
        unsubscribe_token="hidden-token",
        dynamic_content={"name": "hidden"},
    )


def test_marks_are_found_in_unions_lists_mappings_and_nested_models():
    assert sensitive_fields(Book) == {"numbers", "people.phone", "best.phone", "pin"}
    assert sensitive_fields(SendEmailBulk) == {
        "recipients.email",
        "recipients.unsubscribe_token",
        "recipients.dynamic_content",
    }
    assert sensitive_fields(CallCompleted) == {"phone_number"}


def test_every_phone_number_token_and_address_of_the_vocabulary_is_marked():
    for cls in registry.all():
        if not cls.__module__.startswith("common.domain."):
            continue
        for path in paths(cls):
            if any(
                word in path.rpartition(".")[2] for word in ("phone", "email", "token", "webhook")
            ):
                assert path in sensitive_fields(cls), f"{cls.__name__}.{path}"


def paths(model, prefix=""):
    from common.domain._annotations import models_in

    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in models_in(field.annotation):
            yield from paths(inner, f"{prefix}{name}.")


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format])
def test_reprs_show_a_mask_at_every_level(show):
    single = SendEmail(notification_type="news", recipient=recipient())
    bulk = SendEmailBulk(notification_type="news", recipients=[recipient()])
    book = Book(
        numbers=["+4930901820"], people={"a": Person(name="A", phone="+4930901820")}, pin="hidden"
    )
    for message in (single, bulk, book):
        text = show(message)
        assert "hidden" not in text
        assert "901820" not in text
        assert MASK in text
    assert "shop.example" in show(single)


def test_unset_sensitive_fields_show_as_none():
    assert repr(Person(name="A")) == "Person(name='A', phone=None, friends=[])"


def test_masked_dumps_hide_at_every_level_and_keep_the_rest():
    book = Book(
        numbers=["+4930901820"],
        people={"a": Person(name="A", phone="+4930901820")},
        best=Person(name="B", friends=[Person(name="C", phone="+4930901820")]),
        pin="hidden",
    )
    assert masked(book) == {
        "numbers": MASK,
        "people": {"a": {"name": "A", "phone": MASK, "friends": []}},
        "best": {
            "name": "B",
            "phone": None,
            "friends": [{"name": "C", "phone": MASK, "friends": []}],
        },
        "pin": MASK,
    }
    bulk = masked(SendEmailBulk(notification_type="news", recipients=[recipient()]))
    assert bulk["recipients"][0]["email"] == MASK


def test_the_wire_carries_the_real_values():
    wire = SendEmail(notification_type="news", recipient=recipient()).model_dump_json()
    assert "hidden@shop.example" in wire
    assert "hidden-token" in wire


def test_validation_errors_do_not_quote_input():
    for make in (
        lambda: CallCompleted.model_validate({"phone_number": "hidden", "status": "hidden"}),
        lambda: CallCompleted.model_validate_json('{"phone_number": "hidden"}'),
        lambda: CallCompleted.model_validate_json('{"phone_number": "hidden'),
        lambda: SendEmail.model_validate(
            {"recipient": {"email": "hidden", "unsubscribe_token": 7}}
        ),
    ):
        with pytest.raises(ValidationError) as caught:
            make()
        assert "hidden" not in str(caught.value)


def test_the_mark_shows_in_the_json_schema():
    schema = CallCompleted.model_json_schema()
    assert schema["properties"]["phone_number"]["x-sensitive"] is True
    assert "x-sensitive" not in schema["properties"]["call_id"]
