"""What a plan says: a diff that an operator reads."""

import pytest

from common.domain import Stream
from common.events.core import Change, InMemoryTransport, Plan, StreamSpec

LAMP = StreamSpec.of(Stream("LAMP", ("lamp",)))


def test_a_plan_is_a_diff():
    plan = Plan(
        [
            Change("create", "stream LAMP"),
            Change("update", "stream DOOR", "max_age", "1 day", "2 days"),
            Change("conflict", "stream ROOF", "storage", "memory", "file"),
        ]
    )
    assert str(plan).splitlines() == [
        "+ stream LAMP",
        "~ stream DOOR: max_age: 1 day -> 2 days",
        "! stream ROOF: storage: memory -> file (cannot be changed)",
    ]
    assert str(Plan()) == "no changes"


@pytest.mark.parametrize("field", ["subjects", "duplicate_window"])
def test_what_can_be_changed_but_not_to_this_is_not_said_to_be_unchangeable(field: str):
    text = str(Change("conflict", "stream LAMP", field, "1 s", "more than 5 s"))
    assert text == f"! stream LAMP: {field}: 1 s -> more than 5 s"


async def test_of_an_overlap_it_is_told_with_what():
    async with InMemoryTransport() as transport:
        await transport.declare([LAMP], mode="create")
        plan = await transport.plan([StreamSpec(name="ROOF", subjects=("evt.lamp.lit",))])
    line = str(plan).splitlines()[-1]
    assert line.startswith("! stream ROOF: subjects: stream LAMP takes evt.lamp.>")
    assert "cannot be changed" not in line
