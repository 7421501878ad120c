from dataclasses import dataclass

import pytest
from pydantic import BaseModel, Field

from common.db.core import ANY, Mapper, MemoryDatabase, StoredDataError, UnknownFieldError, entity
from common.errors import ValidationError


class Address(BaseModel):
    city: str


@entity(table="people", version="version")
class Person(BaseModel):
    id: int
    name: str = Field(min_length=1)
    note: str | None = "none yet"
    address: Address | None = None
    version: int = 0


class PersonIn(BaseModel):
    name: str
    address: Address | None = None


class PersonPatch(BaseModel):
    name: str | None = None
    note: str | None = None
    address: Address | None = None


class PersonOut(BaseModel):
    id: int
    name: str
    address: Address | None


mapper = Mapper(Person, PersonIn, PersonPatch, PersonOut)


async def test_a_model_goes_all_the_way_round():
    async with MemoryDatabase() as database:
        people = database.repository(Person)
        given = PersonIn(name="a", address=Address(city="x"))
        person = await people.add(mapper.to_model(given, id=1))
        patch = PersonPatch(note=None, address=Address(city="y"))
        changed = await people.update(1, mapper.changes(patch), expected=person.version)
        assert changed.note is None
        assert changed.name == "a"
        assert changed.address == Address(city="y")
        assert mapper.to_out(changed) == PersonOut(id=1, name="a", address=Address(city="y"))
        untouched = await people.update(1, mapper.changes(PersonPatch()), expected=ANY)
        assert untouched == changed


def test_only_what_was_set_is_applied():
    person = Person(id=1, name="a")
    assert mapper.changes(PersonPatch()) == {}
    assert mapper.apply(person, PersonPatch()) == person
    assert mapper.apply(person, PersonPatch(note=None)).note is None
    assert mapper.apply(person, PersonPatch(name="b")) == Person(id=1, name="b")
    assert person == Person(id=1, name="a")


def test_what_results_is_validated():
    person = Person(id=1, name="a")
    for make in (
        lambda: mapper.apply(person, PersonPatch(name=None)),
        lambda: mapper.apply(person, PersonPatch(name="")),
        lambda: mapper.to_model(PersonIn(name=""), id=1),
    ):
        with pytest.raises(ValidationError) as caught:
            make()
        assert caught.value.field == "name"


def test_lists_are_mapped_in_one_validation():
    people = [Person(id=n, name=str(n)) for n in range(3)]
    assert mapper.to_out_list(iter(people)) == [mapper.to_out(person) for person in people]
    assert mapper.to_out_list([]) == []


def test_what_cannot_be_shown_is_an_error_of_the_server_without_the_values():
    broken = Person.model_construct(id="secret", name="a", address=None)
    for show in (mapper.to_out, lambda model: mapper.to_out_list([model])):
        with pytest.raises(StoredDataError, match="id") as caught:
            show(broken)
        assert caught.value.status == 500
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"


def test_aliases_are_for_the_outside():
    class In(BaseModel):
        name: str = Field(alias="displayName")

    with_alias = Mapper(Person, In, In, PersonOut)
    given = In.model_validate({"displayName": "a"})
    assert with_alias.to_model(given, id=1).name == "a"
    assert with_alias.changes(given) == {"name": "a"}

    class Renamed(BaseModel):
        name: str = Field(alias="displayName")

    shown = Mapper(Person, In, In, Renamed).to_out(Person(id=1, name="a"))
    assert shown.model_dump(by_alias=True) == {"displayName": "a"}


def test_nested_models_are_taken_by_attribute():
    class CityOut(BaseModel):
        city: str

    class Out(BaseModel):
        address: CityOut | None

    out = Mapper(Person, PersonIn, PersonPatch, Out)
    person = Person(id=1, name="a", address=Address(city="x"))
    assert out.to_out_list([person, Person(id=2, name="b")]) == [
        Out(address=CityOut(city="x")),
        Out(address=None),
    ]


def test_dataclasses_are_mapped_as_well():
    @dataclass
    class Thing:
        id: int
        name: str

    @dataclass
    class ThingOut:
        name: str

    things = Mapper(Thing, PersonInName, PersonInName, ThingOut)
    thing = things.to_model(PersonInName(name="a"), id=1)
    assert thing == Thing(1, "a")
    assert things.to_out_list([thing]) == [ThingOut("a")]
    assert things.apply(thing, PersonInName(name="b")) == Thing(1, "b")


class PersonInName(BaseModel):
    name: str


def test_values_for_fields_that_do_not_exist_are_refused():
    with pytest.raises(UnknownFieldError, match="did you mean 'note'"):
        mapper.to_model(PersonIn(name="a"), id=1, notee="lost")


def test_fields_without_a_counterpart_are_found_at_construction():
    class Typo(BaseModel):
        nmae: str | None = None

    for create, patch in ((Typo, PersonPatch), (PersonIn, Typo)):
        with pytest.raises(UnknownFieldError) as caught:
            Mapper(Person, create, patch, PersonOut)
        assert caught.value.suggestion == "name"
