# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOptionalIterable=false, reportOptionalSubscript=false, reportReturnType=false
# pyright: reportUnusedClass=false

import re
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from common.domain import (
    Command,
    Event,
    InvalidMessageError,
    NewerVersionError,
    Registry,
    TimeZoneName,
    UnknownTypeError,
    UnknownVersionError,
    ValueObject,
    registry,
    upcast,
)
from common.domain.calls import CallCompleted

CALL = b'{"call_id":"c","phone_number":"+4930901820","duration_seconds":1,"status":"completed"}'
mine = Registry()


class Trip(Event, type="trip.ended", version=3, key="trip_id", registry=mine):
    trip_id: str
    meters: int
    currency: str

    @upcast(1)
    @staticmethod
    def _kilometers(data: dict[str, Any]) -> dict[str, Any]:
        data["meters"] = data.pop("kilometers") * 1000
        return data

    @upcast(2)
    @staticmethod
    def _currency(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "currency": "EUR"}


def test_decodes_the_current_version_from_bytes_text_or_a_mapping():
    expected = CallCompleted.model_validate_json(CALL)
    assert registry.decode("call.completed", CALL) == expected
    assert registry.decode("call.completed", CALL.decode(), version=1) == expected
    assert registry.decode("call.completed", expected.model_dump()) == expected


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (1, {"trip_id": "t", "kilometers": 2}),
        (2, {"trip_id": "t", "meters": 2000}),
        (3, {"trip_id": "t", "meters": 2000, "currency": "EUR"}),
    ],
)
def test_every_version_passes_the_rest_of_the_chain(version, data):
    before = dict(data)
    trip = mine.decode("trip.ended", data, version=version)
    assert trip == Trip(trip_id="t", meters=2000, currency="EUR")
    assert data == before, "the caller's data was changed"


def test_an_unknown_type_is_one_clear_error():
    with pytest.raises(
        UnknownTypeError, match=r"'call.compleated' \(did you mean call.completed\?\)"
    ):
        registry.decode("call.compleated", CALL)


def test_a_newer_version_is_one_clear_error():
    with pytest.raises(
        NewerVersionError, match="version 2 is newer than this service, which reads version 1"
    ):
        registry.decode("call.completed", CALL, version=2)
    with pytest.raises(NewerVersionError, match="reads versions 1 to 3"):
        mine.get("trip.ended", 4)


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_before_the_first_is_one_clear_error(version):
    with pytest.raises(UnknownVersionError, match="cannot be read") as caught:
        mine.decode("trip.ended", b"{}", version=version)
    assert not isinstance(caught.value, NewerVersionError)


def test_a_hostile_type_does_not_fill_the_error():
    with pytest.raises(UnknownTypeError) as caught:
        registry.decode("x" * 1_000_000, b"{}")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"7", '"\ud800"'])
@pytest.mark.parametrize("version", [1, 3])
def test_data_that_is_no_json_object_is_an_invalid_message(data, version):
    with pytest.raises(InvalidMessageError):
        mine.decode("trip.ended", data, version=version)


def test_deeply_nested_data_is_an_invalid_message():
    for version in (1, 3):
        with pytest.raises(InvalidMessageError):
            mine.decode("trip.ended", b'{"a":' * 100_000, version=version)


def test_an_invalid_message_names_the_fields_but_not_their_values():
    secret = "+49-SECRET"
    with pytest.raises(InvalidMessageError) as caught:
        registry.decode(
            "call.completed", {"call_id": "c", "phone_number": secret, "status": secret}
        )
    error = caught.value
    assert {problem.split(":")[0] for problem in error.problems} == {
        "phone_number",
        "duration_seconds",
        "status",
    }
    for shown in (str(error), repr(error), str(error.to_dict()), str(error.__cause__)):
        assert "SECRET" not in shown


def test_the_problems_of_an_invalid_message_are_bounded():
    own = Registry()

    class Wide(Event, type="wide.made", registry=own):
        numbers: list[int]

    with pytest.raises(InvalidMessageError) as caught:
        own.decode("wide.made", {"numbers": ["x"] * 1000})
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 980 more"


def test_an_upcaster_that_fails_on_the_data_is_an_invalid_message():
    with pytest.raises(
        InvalidMessageError, match="from version 1 to 2 failed with KeyError"
    ) as caught:
        mine.decode("trip.ended", {"trip_id": "t"}, version=1)
    assert re.search(r"KeyError \(test_registry\.py:\d+\)", str(caught.value))


class Guarded(ValueObject):
    kind: Literal["guarded"] = "guarded"
    number: int = 0

    @field_validator("number")
    @classmethod
    def _refuse(cls, value: int) -> int:
        raise ValueError(f"bad {value}")


class Other(ValueObject):
    kind: Literal["other"] = "other"


class Leaky(Event, type="leaky.made", version=2, registry=mine):
    guarded: Guarded | None = None
    tagged: Annotated[Guarded | Other, Field(discriminator="kind")] | None = None
    by_name: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    by_key: dict[Annotated[str, Field(max_length=3)], int] = Field(default_factory=dict)
    people: dict[str, Guarded] = Field(default_factory=dict)
    uuid: UUID | None = None
    zone: TimeZoneName = "UTC"
    either: int | list[int] = 0

    @upcast(1)
    @staticmethod
    def _number(data: dict[str, Any]) -> dict[str, Any]:
        return {"guarded": {"number": int(data["n"])}}


@pytest.mark.parametrize(
    ("version", "data", "problem"),
    [
        (2, {"guarded": {"number": 4711}}, "guarded.number: is refused by a validator (test_reg"),
        (2, {"tagged": {"kind": "4711"}}, "tagged: fits none of the alternatives"),
        (2, {"by_name": {"4711": -1}}, "by_name.{}: Input should be greater than"),
        (2, {"by_key": {"4711": 1}}, "by_key.{}: String should have at most 3"),
        (2, {"people": {"4711": {"number": "x"}}}, "people.{}.number: Input should be a valid"),
        (2, {"uuid": "4711"}, "uuid: is refused by a validator"),
        (2, {"zone": "4711"}, "zone: is no IANA time zone"),
        (2, {"either": ["4711", "x4711"]}, "either.1: Input should be a valid integer"),
        (2, '{"n": 4711', "data: Invalid JSON"),
        (1, {"n": "4711x"}, "failed with ValueError (test_registry.py:"),
        (1, '{"n": 4711', "is not JSON"),
    ],
)
def test_nothing_of_an_invalid_message_shows_in_its_error_or_traceback(version, data, problem):
    with pytest.raises(InvalidMessageError) as caught:
        mine.decode("leaky.made", data, version=version)
    error = caught.value
    assert problem in str(error)
    assert error.__context__ is None
    shown = "".join(traceback.format_exception(error))
    assert "4711" not in f"{shown} {error!r} {error.problems} {error.to_dict()}"


def test_an_upcaster_that_forgets_to_return_is_an_invalid_message():
    own = Registry()

    class Forgetful(Event, type="forget.it", version=2, registry=own):
        @upcast(1)
        @staticmethod
        def _forget(data: dict[str, Any]) -> dict[str, Any]:
            pass

    with pytest.raises(InvalidMessageError, match="returned NoneType"):
        own.decode("forget.it", {}, version=1)


def test_a_duplicate_fails_at_declaration_with_both_names():
    own = Registry()

    class One(Event, type="shop.sold", registry=own):
        pass

    with pytest.raises(
        TypeError, match=r"Two declares shop.sold version 1, which .*One has already"
    ):

        class Two(Event, type="shop.sold", registry=own):
            pass

    with pytest.raises(TypeError, match=r"Three declares shop.sold as command, and .*One as event"):

        class Three(Command, type="shop.sold", version=2, oldest=2, registry=own):
            pass

    assert own.get("shop.sold") is One


def test_a_service_cannot_take_a_type_of_the_vocabulary_even_before_it_is_loaded():
    code = """
from common.domain import Event
try:
    class Mine(Event, type="memory.updated"):
        pass
except TypeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        "__main__.Mine declares memory.updated version 1, which common.domain.memory.MemoryUpdated"
        in done.stdout
    )


def test_declaring_the_same_class_again_replaces_it():
    own = Registry()

    def declare():
        class Again(Event, type="again.made", registry=own):
            pass

        return Again

    declare()
    newest = declare()
    assert own.get("again.made") is newest


def test_two_versions_may_be_classes_side_by_side():
    own = Registry()

    class Old(Event, type="shop.sold", registry=own):
        price: int

    class New(Event, type="shop.sold", version=2, oldest=2, registry=own):
        cents: int

    assert own.get("shop.sold") is New
    assert own.get("shop.sold", 1) is Old
    assert list(own) == [Old, New]
    assert own.decode("shop.sold", {"price": 1}, version=1) == Old(price=1)


def test_subjects_lead_to_classes():
    assert registry.by_subject("evt.call.completed") is CallCompleted
    for wrong in ("cmd.call.completed", "call.completed", "evt", "", "evt.call.completed.x"):
        with pytest.raises(UnknownTypeError):
            registry.by_subject(wrong)


def test_a_private_registry_knows_only_its_own():
    with pytest.raises(UnknownTypeError):
        mine.get("call.completed")
    with pytest.raises(UnknownTypeError):
        registry.get("trip.ended")


def test_every_area_is_found_by_a_fresh_program_that_imports_none():
    code = """
import sys
from common.domain import registry
assert not [name for name in sys.modules if name == "common.domain.calls"]
assert registry.by_subject("cmd.notification.send_email").__name__ == "SendEmail"
assert "common.domain.scheduler" not in sys.modules
print(len(registry.all()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 39


def test_first_look_ups_from_many_threads_find_complete_classes():
    code = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from common.domain import registry
subjects = ["evt.call.completed", "evt.order.updated", "evt.merchant.created"]
subjects = [*subjects, "cmd.catalog.sync_update"] * 4
start = Barrier(len(subjects))
def find(subject):
    start.wait()
    return registry.by_subject(subject).model_json_schema()["title"]
with ThreadPoolExecutor(len(subjects)) as pool:
    print(len(set(pool.map(find, subjects))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "4"


def test_declarations_from_many_threads_are_all_kept():
    own = Registry()
    start = Barrier(8)

    def declare(thread: int) -> None:
        start.wait()
        for number in range(10):
            type(f"E{thread}_{number}", (Event,), {}, type=f"t{thread}.e{number}", registry=own)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(declare, range(8)))
    assert len(list(own)) == 80


@given(st.integers(2, 12).flatmap(lambda top: st.tuples(st.just(top), st.integers(1, top))))
def test_a_chain_of_any_length_runs_each_later_step_once_and_in_order(case):
    top, start = case
    own = Registry()

    def step(at: int):
        def run(data: dict[str, Any]) -> dict[str, Any]:
            return {**data, "steps": [*data["steps"], at]}

        return upcast(at)(run)

    body = {"__annotations__": {"steps": list[int]}, "__module__": __name__}
    steps = {f"_from_{at}": step(at) for at in range(1, top)}
    type("Chain", (Event,), {**body, **steps}, type="chain.made", version=top, registry=own)
    decoded = own.decode("chain.made", {"steps": []}, version=start)
    assert decoded.steps == list(range(start, top))
