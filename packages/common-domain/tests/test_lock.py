import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from common.domain import (
    Command,
    Event,
    Registry,
    SchemaLockError,
    check_compatibility,
    registry,
    schema_lock,
    upcast,
)
from common.domain._message import Message

COMMITTED = Path(__file__).parent.parent / "schema-lock.json"
OWN = [cls for cls in registry.all() if cls.__module__.startswith("common.domain.")]


def test_the_committed_lock_is_that_of_the_code():
    committed = COMMITTED.read_text("utf-8")
    assert check_compatibility(committed, OWN) == []
    assert schema_lock(OWN, previous=committed) == committed, "run python -m common.domain lock"


def sold(
    version: int = 1, base: type[Message] = Event, key: str = "order_id", **options: Any
) -> type[Message]:
    class Sold(base, type="shop.sold", version=version, key=key, registry=Registry(), **options):
        order_id: str
        shop_id: str

        if version > 1 and not options:

            @upcast(1)
            @staticmethod
            def _one(data: dict[str, Any]) -> dict[str, Any]:
                return data

    return Sold


def problems(lock: str, *messages: type[Message]) -> list[str]:
    return [str(each) for each in check_compatibility(lock, messages)]


def test_the_lock_is_the_same_text_whatever_the_order():
    assert schema_lock(OWN) == schema_lock(reversed(OWN))
    assert json.loads(schema_lock(OWN))["types"].keys() == {c.__message__.type for c in OWN}


def test_a_new_version_with_an_upcaster_is_fine_and_the_old_schema_is_kept():
    lock = schema_lock([sold()])
    assert problems(lock, sold(2)) == []
    renewed = schema_lock([sold(2)], previous=lock)
    assert list(json.loads(renewed)["types"]["shop.sold"]) == ["1", "2"]
    assert problems(renewed, sold(2)) == []


def test_a_version_that_nothing_reads_any_more_is_reported_with_the_fix():
    lock = schema_lock([sold()])
    (found,) = check_compatibility(lock, [sold(2, oldest=2)])
    assert str(found) == "shop.sold v1: $: the version cannot be read any more (backward)"
    assert found.fix.startswith("keep @upcast(1)")
    assert list(
        json.loads(schema_lock([sold(2, oldest=2)], previous=lock))["types"]["shop.sold"]
    ) == ["2"]


def test_a_type_or_version_that_vanished_is_reported():
    assert problems(schema_lock([sold()])) == [
        "shop.sold v1: $: the type is not declared any more (backward)"
    ]
    assert problems(schema_lock([sold(2)]), sold()) == [
        "shop.sold v2: $: the version is newer than the code's (backward)"
    ]


def test_another_key_or_kind_is_reported():
    lock = schema_lock([sold()])
    assert problems(lock, sold(key="shop_id")) == [
        "shop.sold v1: $: key changed from order_id to shop_id (backward)"
    ]
    assert problems(lock, sold(base=Command)) == [
        "shop.sold v1: $: kind changed from event to command (backward)"
    ]


def test_a_new_type_is_fine():
    assert problems(schema_lock([]), sold()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": 2, "types": {}}',
        '{"format": 1, "types": {"a.b": {"x": {}}}}',
        '{"format": 1, "types": {"a.b": {"1": {}}}}',
        '{"format": 1, "types": 7}',
    ],
)
def test_what_is_no_lock_is_one_clear_error(text):
    with pytest.raises(SchemaLockError, match="write"):
        check_compatibility(text, OWN)


def test_a_class_may_contain_itself():
    class Tree(Event, type="tree.grown", registry=Registry()):
        children: list["Tree"] = Field(default_factory=list)

    lock = schema_lock([Tree])
    assert problems(lock, Tree) == []
