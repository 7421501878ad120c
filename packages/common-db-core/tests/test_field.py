from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime
from enum import IntFlag
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    FutureDate,
    HttpUrl,
    Json,
    PastDate,
    PlainSerializer,
    PositiveInt,
)

from common.db.core import (
    ANY,
    EntityDefinitionError,
    F,
    FieldInfo,
    Kind,
    MemoryDatabase,
    entity,
    entity_info,
)
from common.errors import ValidationError


def _even(value: int) -> int:
    if value % 2:
        raise ValueError(f"secret {value} is odd")
    return value


class Address(BaseModel):
    street: str = Field(alias="Street", min_length=1)


@entity(table="models")
class Model(BaseModel):
    id: int
    size: Literal["s", "m"] = "s"
    count: PositiveInt = 1
    even: Annotated[int, AfterValidator(_even)] | None = None
    code: str = Field(default="a", pattern="^[a-z]+$", max_length=5)
    born: PastDate | None = None
    tags: Annotated[list[str], Field(max_length=2)] = []
    address: Address | None = None


@entity(table="data")
@dataclass
class Data:
    id: int
    size: Literal["s", "m"] = "s"
    count: PositiveInt = 1
    even: Annotated[int, AfterValidator(_even)] | None = None
    code: Annotated[str, Field(pattern="^[a-z]+$", max_length=5)] = "a"
    born: PastDate | None = None
    tags: Annotated[list[str], Field(max_length=2)] = field(default_factory=list)
    address: Address | None = None


BROKEN: dict[str, Any] = {
    "size": "secret",
    "count": 0,
    "even": 3,
    "code": "A",
    "born": date(9999, 1, 1),
    "tags": ["a", "b", "c"],
    "address": Address.model_construct(street=""),
}


@pytest.fixture
async def database():
    async with MemoryDatabase() as opened:
        yield opened


@pytest.mark.parametrize("cls", [Model, Data])
@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_nothing_is_stored_that_could_not_be_read_again(database, cls, name):
    repository = database.repository(cls)
    stored = await repository.add(cls(id=1, even=2))
    bad = cls(id=2)
    setattr(bad, name, BROKEN[name])
    for write in (
        lambda: repository.update(1, {name: BROKEN[name]}, expected=ANY),
        lambda: repository.add(bad),
        lambda: repository.add_many([cls(id=3), bad]),
        lambda: repository.upsert(bad),
        lambda: repository.upsert_many([cls(id=3), bad]),
    ):
        with pytest.raises(ValidationError, match=f"{name} ") as caught:
            await write()
        assert caught.value.field == name
        assert "secret" not in str(caught.value)
    assert list(await repository.find()) == [stored]


@pytest.mark.parametrize("cls", [Model, Data])
async def test_what_fits_goes_all_the_way_round(database, cls):
    repository = database.repository(cls)
    made = [
        cls(id=n, even=(None, 4)[n % 2], tags=["a"] * (n % 3), address=Address(Street=f"s{n}"))
        for n in range(5)
    ]
    assert await repository.add_many(made) == 5
    assert list(await repository.find()) == made
    changed = await repository.update(1, {"size": "m", "born": date(2000, 1, 1)}, expected=ANY)
    assert (changed.size, changed.born) == ("m", date(2000, 1, 1))


async def test_a_row_that_breaks_a_later_constraint_can_be_found_and_deleted(database):
    loose = make_dataclass("Loose", [("id", str), ("n", int, 0)])
    strict = make_dataclass("Strict", [("id", Annotated[str, Field(pattern="^b")]), ("n", int, 0)])
    for cls in (loose, strict):
        entity(table="keys")(cls)
    await database.repository(loose).add(loose("a"))
    kept = database.repository(strict)
    assert await kept.count(F.id == "a") == 1
    assert (await kept.get("a")).n == 0
    assert await kept.delete("a")


def test_json_that_does_not_read_what_it_wrote_is_refused():
    @entity(table="t")
    class Odd(BaseModel):
        id: int
        one: Json[dict[str, int]] | None = None
        two: Annotated[list[int], PlainSerializer(lambda value: f"{value}")] | None = None

    for name, value in {"one": '{"a": 1}', "two": [1]}.items():
        with pytest.raises(ValidationError) as caught:
            entity_info(Odd).to_row(Odd.model_validate({"id": 1, name: value}))
        assert caught.value.field == name


def test_json_keys_that_become_alike_are_refused_and_none_is_lost():
    @entity(table="t")
    @dataclass
    class Bag:
        id: int
        data: Any = None

    with pytest.raises(ValidationError, match="same text"):
        entity_info(Bag).to_row(Bag(1, {"deep": [{1: "a", "1": "b"}]}))
    assert entity_info(Bag).to_row(Bag(1, {1: "a", "2": "b"})) == (1, {"1": "a", "2": "b"})


def test_types_that_pydantic_does_not_know_are_named():
    class Alien:
        pass

    bad = entity(table="t")(make_dataclass("Bad", [("id", int), ("many", list[Alien])]))
    with pytest.raises(EntityDefinitionError, match="many"):
        entity_info(bad).to_row(bad(1, [Alien()]))


class Right(IntFlag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize("annotation", [Right, FutureDate, HttpUrl])
def test_what_could_not_be_read_later_is_refused(annotation):
    """Combined flags are no members, and the future passes."""
    bad = entity(table="t")(make_dataclass("Bad", [("id", int), ("value", annotation)]))
    with pytest.raises(EntityDefinitionError, match=r"Kind\.JSON"):
        entity_info(bad)


async def test_a_type_that_is_not_known_is_stored_as_json(database):
    @entity(table="links")
    @dataclass
    class Link:
        id: int
        url: Annotated[HttpUrl, Kind.JSON]

    links = database.repository(Link)
    await links.add(Link(1, HttpUrl("https://example.com/")))
    assert (await links.get(1)).url == HttpUrl("https://example.com/")


def test_only_what_says_more_than_its_kind_is_validated():
    @entity(table="t")
    class Plain(BaseModel):
        id: int
        text: Annotated[str, "a note", Field(max_length=3)] | None = None
        at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
        anything: Any = None

    assert not any(each.validated for each in entity_info(Plain).fields)
    assert all(each.validated for each in entity_info(Model).fields if each.name != "id")


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize(
    "column",
    [[], ["a", "abc"], ["ä" * 3], [None, "a"], [None], ["a", "abcd"], ["a", "\0"], ["a", 1, None]],
)
def test_columns_and_single_values_are_checked_alike(column, nullable):
    each = FieldInfo("f", Kind.TEXT, nullable=nullable, max_length=3)

    def outcome(check):
        try:
            return check()
        except ValidationError as error:
            return str(error)

    one_by_one = outcome(lambda: [each.check(value) for value in column])
    assert outcome(lambda: each.check_all(column)) == one_by_one
