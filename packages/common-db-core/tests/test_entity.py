from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, Field, SecretStr

from common.db.core import (
    EntityDefinitionError,
    EntityInfo,
    FieldInfo,
    Kind,
    MemoryDatabase,
    StoredDataError,
    Unique,
    UnknownFieldError,
    entity,
    entity_info,
)
from common.errors import ValidationError


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Mixed(Enum):
    A = "a"
    B = 1


class Inner(BaseModel):
    at: datetime


Number = NewType("Number", str)


@entity(
    table="things", tenant="owner", version="etag", unique=[("number",), Unique(("a", "b"), "u")]
)
class Thing(BaseModel):
    id: UUID
    owner: str
    etag: str | None = None
    number: Number
    a: Annotated[str, Field(max_length=5)] | None = None
    b: Annotated[int | None, "meta"] = None
    colour: Colour = Colour.RED
    level: Level | None = None
    size: Literal["s", "m"] = "s"
    amount: Decimal = Decimal(0)
    at: AwareDatetime | None = None
    inner: Inner | None = None
    many: list[Inner] = []
    anything: Any = None
    short: str = Field(default="", max_length=3)
    data: Annotated[bytes, Field(max_length=2)] = b""


def test_annotations_decide_the_kinds():
    info = entity_info(Thing)
    assert entity_info(Thing) is info
    assert {each.name: (each.kind, each.nullable) for each in info.fields} == {
        "id": (Kind.UUID, False),
        "owner": (Kind.TEXT, False),
        "etag": (Kind.TEXT, True),
        "number": (Kind.TEXT, False),
        "a": (Kind.TEXT, True),
        "b": (Kind.INT, True),
        "colour": (Kind.TEXT, False),
        "level": (Kind.INT, True),
        "size": (Kind.TEXT, False),
        "amount": (Kind.DECIMAL, False),
        "at": (Kind.DATETIME, True),
        "inner": (Kind.JSON, True),
        "many": (Kind.JSON, False),
        "anything": (Kind.JSON, True),
        "short": (Kind.TEXT, False),
        "data": (Kind.BYTES, False),
    }
    assert [info.field(name).max_length for name in ("a", "short", "data")] == [5, 3, 2]
    assert (info.field("colour").enum, info.field("level").enum) == (Colour, Level)
    assert info.primary_key == "pk_things"
    assert [info.constraint_name(unique) for unique in info.unique] == ["uq_things_number", "u"]


def test_rows_and_entities_turn_into_each_other():
    info = entity_info(Thing)
    inner = Inner(at=datetime(2026, 1, 1, tzinfo=UTC))
    thing = Thing(
        id=UUID(int=1), owner="o", number=Number("1"), level=Level.LOW, inner=inner, many=[inner]
    )
    row = info.to_row(thing)
    assert row[info.index("level")] == 1
    assert row[info.index("inner")] == {"at": "2026-01-01T00:00:00Z"}
    assert info.build_many([row]) == [thing]
    assert info.key_of(row) == (UUID(int=1),)


def test_what_is_stored_but_does_not_fit_is_an_error_without_the_values():
    info = entity_info(Thing)
    row = list(info.to_row(Thing(id=UUID(int=1), owner="o", number=Number("secret"))))
    row[info.index("colour")] = "secret"
    with pytest.raises(StoredDataError) as caught:
        info.build_many([row])
    assert "colour" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_dataclasses_of_any_make_are_loaded():
    @entity(table="a")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Frozen:
        id: int
        colour: Colour | None = None
        inner: dict[str, int] = field(default_factory=dict)

    info = entity_info(Frozen)
    thing = Frozen(id=1, colour=Colour.RED, inner={"a": 1})
    assert info.to_row(thing) == (1, "red", {"a": 1})
    assert info.build_many([(1, "red", {"a": 1}), (2, None, {})]) == [thing, Frozen(id=2)]
    with pytest.raises(StoredDataError):
        info.build_many([(1, "blue", {})])

    @entity(table="b")
    @dataclass
    class Only:
        id: int

    assert entity_info(Only).to_rows([Only(1), Only(2)]) == [(1,), (2,)]
    assert entity_info(Only).build_many([[3]]) == [Only(3)]


async def test_other_classes_describe_themselves():
    class Plain:
        def __init__(self, id: int, text: str) -> None:  # noqa: A002
            self.id, self.text = id, text

        @classmethod
        def __entity_info__(cls) -> "EntityInfo[Plain]":
            return EntityInfo(
                entity=cls,
                table="plain",
                fields=(FieldInfo("id", Kind.INT), FieldInfo("text", Kind.TEXT)),
                key=("id",),
                build=lambda rows: [cls(*row) for row in rows],
            )

    async with MemoryDatabase() as database:
        repository = database.repository(Plain)
        await repository.add(Plain(1, "a"))
        assert (await repository.get(1)).text == "a"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"key": ()}, "no primary key"),
        ({"key": "ratio"}, "neither nullable nor float"),
        ({"key": "note"}, "neither nullable nor float"),
        ({"tenant": "note"}, "neither nullable nor float"),
        ({"version": "ratio"}, "must be an int"),
        ({"version": "id"}, "two roles"),
        ({"deleted": "number"}, "must be a datetime"),
        ({"deleted": "at"}, "must be nullable"),
        ({"created": "note"}, "must be a datetime"),
        ({"created": "at", "updated": "at"}, "two roles"),
        ({"tenant": "number", "version": "number"}, "two roles"),
    ],
)
def test_declarations_that_cannot_work_are_refused(declared, message):
    @entity(table="t", **declared)
    @dataclass
    class Bad:
        id: int
        number: int
        ratio: float
        at: datetime
        note: str | None = None

    with pytest.raises(EntityDefinitionError, match=message):
        entity_info(Bad)


@entity(table="early")
class Early(BaseModel):
    id: int
    later: "Late"


@entity(table="early")
@dataclass
class EarlyData:
    id: int
    later: "Late"


@entity(table="lost")
class LostModel(BaseModel):
    id: int
    x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@entity(table="lost")
@dataclass
class LostData:
    id: int
    x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Late(BaseModel):
    x: int


@pytest.mark.parametrize("cls", [Early, EarlyData])
def test_types_may_be_defined_after_the_entity(cls):
    assert entity_info(cls).field("later").kind is Kind.JSON
    assert entity_info(cls).to_row(cls(id=1, later=Late(x=1))) == (1, {"x": 1})


def test_types_may_be_local_to_a_function():
    class Inside(BaseModel):
        x: int

    @entity(table="local")
    class Local(BaseModel):
        id: int
        inside: "Inside"

    assert entity_info(Local).field("inside").kind is Kind.JSON


@pytest.mark.parametrize("cls", [LostModel, LostData])
def test_types_that_are_never_defined_are_named(cls):
    with pytest.raises(EntityDefinitionError, match="Nowhere"):
        entity_info(cls)


@pytest.mark.parametrize("table", ["", "a\0b", "a\nb"])
def test_a_table_needs_a_name(table):
    @entity(table=table)
    @dataclass
    class Bad:
        id: int

    with pytest.raises(EntityDefinitionError, match="printable"):
        entity_info(Bad)


@pytest.mark.parametrize(
    "declared", [{"key": "idd"}, {"tenant": "x"}, {"unique": [("id", "nmber")]}]
)
def test_declared_names_must_exist(declared):
    @entity(table="t", **declared)
    @dataclass
    class Bad:
        id: int
        number: int

    with pytest.raises(UnknownFieldError):
        entity_info(Bad)


@pytest.mark.parametrize("annotation", [SecretStr, object, Mixed, complex, type])
def test_types_that_cannot_be_stored_are_refused(annotation):
    bad = entity(table="t")(make_dataclass("Bad", [("id", int), ("value", annotation)]))
    with pytest.raises(EntityDefinitionError, match="value"):
        entity_info(bad)


def test_what_is_only_json_to_pydantic_is_kept_opaque():
    odd = entity(table="t")(make_dataclass("Odd", [("id", int), ("value", int | str)]))
    assert entity_info(odd).field("value").kind is Kind.JSON


@pytest.mark.parametrize("cls", [int, object, "text", BaseModel])
def test_what_is_not_declared_is_refused(cls):
    with pytest.raises(EntityDefinitionError, match="@entity"):
        entity_info(cls)


def test_a_field_without_init_is_refused():
    @entity(table="t")
    @dataclass
    class Bad:
        id: int
        made: int = field(init=False, default=1)

    with pytest.raises(EntityDefinitionError, match="init=False"):
        entity_info(Bad)


def test_a_kind_can_be_named():
    class Phone(str):
        __slots__ = ()

    @entity(table="t")
    @dataclass
    class Contact:
        id: int
        phone: Phone
        odd: Annotated[object, Kind.TEXT]

    info = entity_info(Contact)
    assert [each.kind for each in info.fields] == [Kind.INT, Kind.TEXT, Kind.TEXT]
    assert type(info.to_row(Contact(1, Phone("1"), "x"))[1]) is str


def test_values_that_break_their_declared_type_are_refused():
    info = entity_info(Thing)
    good = Thing(id=UUID(int=1), owner="o", number=Number("1"))
    for name, value in {
        "inner": {"at": object()},
        "many": [1],
        "anything": {"key": [SecretStr("s")]},
        "a": "abcdef",
        "data": b"abc",
        "colour": "blue",
        "level": True,
        "owner": None,
    }.items():
        with pytest.raises(ValidationError) as caught:
            info.to_row(good.model_copy(update={name: value}))
        assert caught.value.field == name
