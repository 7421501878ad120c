# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false, reportUnusedClass=false

import traceback
from functools import cached_property
from typing import Annotated, Any

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, TypeAdapter, ValidationError

from common.domain import Command, Event, Registry, ValueObject, upcast
from common.domain._schema import stable_schema
from common.domain.calls import CallCompleted


def declare(**options: Any) -> type[Event]:
    class Sample(Event, registry=Registry(), **options):
        order_id: str
        amount: int = 0

    return Sample


def test_the_declaration_gives_subject_key_and_version():
    info = declare(type="shop.sold", version=1, key="order_id").__message__
    assert (info.kind, info.type, info.subject) == ("event", "shop.sold", "evt.shop.sold")
    assert (info.version, info.oldest, info.key) == (1, 1, ("order_id",))


def test_a_command_has_its_own_subject_prefix():
    class Sell(Command, type="shop.sell", registry=Registry()):
        pass

    assert Sell.__message__.subject == "cmd.shop.sell"


def test_fields_may_have_the_names_of_declaration_options():
    class Odd(Event, type="odd.one", key=("key", "type"), registry=Registry()):
        type: str
        version: int
        key: str
        subject: str
        kind: str

    odd = Odd(type="t", version=9, key="k", subject="s", kind="x")
    assert Odd.__message__.key_of(odd) == "k/t"
    assert Odd.__message__.subject == "evt.odd.one"


def test_an_unknown_key_field_fails_at_declaration_with_a_suggestion():
    with pytest.raises(
        TypeError, match=r"key 'order_ids' names no field \(did you mean order_id\?\)"
    ):
        declare(type="shop.sold", key="order_ids")


def test_a_key_may_lie_in_a_nested_model_and_is_checked_there():
    class Buyer(ValueObject):
        buyer_id: int

    class Sold(Event, type="shop.sold", key="buyer.buyer_id", registry=Registry()):
        buyer: Annotated[Buyer, "who"] | None = None

    assert Sold.__message__.key_of(Sold(buyer=Buyer(buyer_id=7))) == "7"
    assert Sold.__message__.key_of(Sold()) is None
    with pytest.raises(TypeError, match=r"key 'buyer.buyerid'"):

        class Bad(Event, type="shop.bad", key="buyer.buyerid", registry=Registry()):
            buyer: Buyer


def test_keys_of_several_fields_do_not_run_into_each_other():
    class Pair(Event, type="pair.made", key=("a", "b"), registry=Registry()):
        a: str
        b: str

    key_of = Pair.__message__.key_of
    keys = {key_of(Pair(a=a, b=b)) for a, b in [("x/", "y"), ("x", "/y"), ("x~1", "y"), ("x", "y")]}
    assert len(keys) == 4


@pytest.mark.parametrize(
    "name",
    ["sold", "Shop.sold", "shop..sold", "shop.sold.", "shop.>", "", "a." + "b" * 200, "a.b\n"],
)
def test_a_malformed_type_fails_at_declaration(name):
    with pytest.raises(TypeError, match="lower-case words"):
        declare(type=name)


def test_a_newer_version_without_upcaster_fails_at_declaration_and_says_what_to_add():
    with pytest.raises(
        TypeError, match=r"cannot read version 1: add @upcast\(1\), or pass oldest=3"
    ):
        declare(type="shop.sold", version=3)
    assert declare(type="shop.sold", version=3, oldest=3).__message__.oldest == 3


def test_a_gap_in_the_upcasters_fails_at_declaration():
    with pytest.raises(TypeError, match="cannot read version 2"):

        class Gap(Event, type="gap.made", version=4, registry=Registry()):
            @upcast(1)
            @staticmethod
            def _one(data: dict[str, Any]) -> dict[str, Any]:
                return data

            @upcast(3)
            @staticmethod
            def _three(data: dict[str, Any]) -> dict[str, Any]:
                return data


@pytest.mark.parametrize("at", [0, 2, 5])
def test_an_upcaster_from_a_version_outside_of_the_range_fails_at_declaration(at):
    with pytest.raises(TypeError, match=f"an upcaster from version {at}"):

        class Stray(Event, type="stray.made", version=2, registry=Registry()):
            @upcast(1)
            @staticmethod
            def _one(data: dict[str, Any]) -> dict[str, Any]:
                return data

            @upcast(at)
            @staticmethod
            def _stray(data: dict[str, Any]) -> dict[str, Any]:
                return data


def test_two_upcasters_from_one_version_fail_at_declaration():
    with pytest.raises(TypeError, match="two upcasters from version 1"):

        class Twice(Event, type="twice.made", version=2, registry=Registry()):
            @upcast(1)
            @staticmethod
            def _one(data: dict[str, Any]) -> dict[str, Any]:
                return data

            @upcast(1)
            @staticmethod
            def _other(data: dict[str, Any]) -> dict[str, Any]:
                return data


def test_extending_a_typed_class_needs_a_type_of_its_own():
    base = declare(type="shop.sold")
    with pytest.raises(TypeError, match=r"extends shop\.sold without a type of its own"):

        class Extended(base):
            pass


def test_an_abstract_base_hands_on_its_fields_and_registry():
    mine = Registry()

    class Base(Event, registry=mine):
        order_id: str

    class Sold(Base, type="shop.sold", key="order_id"):
        pass

    assert mine.get("shop.sold") is Sold
    assert not hasattr(Base, "__message__")


def test_messages_are_immutable():
    event = CallCompleted(
        call_id="c-1", phone_number="+4930901820", duration_seconds=1, status="completed"
    )
    canary = "+" + "49" * 6  # not as it stands in this file, which tracebacks quote
    for name in ("phone_number", "no_field"):
        for change in (lambda n: setattr(event, n, canary), lambda n: delattr(event, n)):
            with pytest.raises(ValidationError, match="is immutable") as caught:
                change(name)
            shown = "".join(traceback.format_exception(caught.value)) + str(caught.value.errors())
            assert canary not in shown
            assert "+4930901820" not in shown
    assert event.phone_number == "+4930901820"
    assert hash(event) == hash(event.model_copy())


def test_private_attributes_and_cached_properties_still_work():
    class Holder(ValueObject):
        _seen: int = 0

        @cached_property
        def doubled(self) -> int:
            return self._seen * 2

    holder = Holder()
    holder._seen = 2
    assert holder.doubled == 4
    del holder.doubled
    assert holder.doubled == 4


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        (Field(alias="other"), "has an alias"),
        (Field(serialization_alias="other"), "has an alias"),
        (Field(validation_alias="other"), "has an alias"),
        (Field(validation_alias=AliasChoices("other", "more")), "has an alias"),
        (Field(validation_alias=AliasPath("x", 0)), "has an alias"),
        (Field(exclude=True), "has exclude=True"),
    ],
    ids=str,
)
def test_fields_that_could_not_be_read_back_are_refused_at_declaration(field, problem):
    with pytest.raises(TypeError, match=rf"\.x {problem}"):

        class Renamed(Event, type="shop.renamed", registry=Registry()):
            x: str = field


def test_a_generator_of_aliases_is_refused_at_declaration():
    with pytest.raises(TypeError, match="has an alias_generator"):
        declare(type="shop.sold", alias_generator=str.upper)


def test_a_field_may_be_read_by_another_name_too_and_is_locked_under_its_own():
    class Sold(Event, type="shop.sold", registry=Registry()):
        order_id: str = Field(validation_alias=AliasChoices("orderId", "order_id"))

    assert Sold.model_validate_json('{"orderId": "o"}') == Sold.model_validate({"order_id": "o"})
    assert list(stable_schema(Sold)["properties"]) == ["order_id"]


def test_an_upcaster_that_is_no_function_of_the_data_fails_at_declaration():
    with pytest.raises(TypeError, match=r"@upcast\(1\) is on a classmethod"):

        class OnClass(Event, type="on.cls", version=2, registry=Registry()):
            @upcast(1)
            @classmethod
            def _one(cls, data: dict[str, Any]) -> dict[str, Any]:
                return data

    for below in (staticmethod, classmethod):
        with pytest.raises(TypeError, match=rf"put @upcast\(1\) above @{below.__name__}"):

            class Swapped(Event, type="order.swapped", version=2, registry=Registry()):
                _one = below(upcast(1)(dict))


def test_unknown_fields_are_ignored_on_reading_so_that_newer_producers_do_no_harm():
    event = CallCompleted.model_validate_json(
        '{"call_id":"c","phone_number":"+4930901820","duration_seconds":1,'
        '"status":"completed","codec":"opus"}'
    )
    assert "codec" not in event.model_dump()


def test_a_message_may_be_part_of_an_envelope_with_one_validator():
    class Envelope(BaseModel):
        id: str
        data: CallCompleted

    raw = (
        '{"id":"e-1","data":{"call_id":"c","phone_number":"+4930901820","duration_seconds":1,'
        '"status":"%s"}}'
    )
    read = TypeAdapter(Envelope).validate_json(raw % "completed")
    assert type(read.data) is CallCompleted
    with pytest.raises(ValidationError):
        TypeAdapter(Envelope).validate_json(raw % "failed")


def test_a_mistyped_option_fails_at_declaration_and_pydantic_options_are_taken():
    with pytest.raises(TypeError, match=r"unknown option typ \(did you mean type\?\)"):
        declare(typ="shop.sold")
    assert declare(type="shop.sold", title="Sale").model_config.get("title") == "Sale"
