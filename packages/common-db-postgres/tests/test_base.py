"""Mapped classes as entities: mixins, tables, and no way around their predicates."""

import inspect
from contextlib import aclosing
from datetime import UTC
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from postgres_entities import OTHER, TENANT, Agent, Leg, Records, State
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, column_property, mapped_column

from common.context import bind
from common.db.core import (
    ALL_TENANTS,
    ANY,
    CheckError,
    EntityDefinitionError,
    F,
    ForeignKeyError,
    Kind,
    NotNullError,
    Query,
    Repository,
    StaleVersionError,
    TenantMismatchError,
    TenantRequiredError,
    UniqueViolationError,
    UnsupportedOperation,
    entity_info,
)
from common.db.postgres import Base, PostgresDatabase, SoftDeleteMixin, new_metadata, orm_session
from common.errors import NotFoundError, ValidationError


def agent(name: str, **values: Any) -> Agent:
    return Agent(**{**TENANT, "name": name, **values})


def test_the_entity_is_derived_from_the_mapping():
    info = entity_info(Agent)
    assert info.table == "agents"
    assert info.key == ("id",)
    assert info.tenant == ("merchant_id", "domain")
    assert (info.version, info.deleted) == ("version", "deleted_at")
    assert (info.created, info.updated) == ("created_at", "updated_at")
    assert info.field("state").enum is State
    assert info.field("skills").kind is Kind.JSON
    assert info.field("full_name").nullable


def test_constraints_and_indexes_are_named_for_each_table():
    table: Any = Agent.__table__
    names = {str(each.name) for each in (*table.constraints, *table.indexes)}
    assert {
        "pk_agents",
        "ix_agents_tenant",
        "uq_agents_merchant_id_domain_name",
    } <= names
    legs: Any = Leg.__table__
    unique = next(each for each in table.indexes if each.unique)
    assert str(unique.dialect_options["postgresql"]["where"]) == "agents.deleted_at IS NULL"
    assert {str(each.name) for each in legs.constraints} == {
        "pk_legs",
        "fk_legs_agent_id_agents",
    }


async def test_an_instance_survives_the_round_trip_without_a_session(database: PostgresDatabase):
    agents = database.repository(Agent, tenant=TENANT)
    made = agent("ada", full_name="Ada", state=State.ON_CALL, skills=["de", "en"])
    stored = await agents.add(made)
    loaded = await agents.get(made.id)
    for each in (stored, loaded):
        assert type(each) is Agent
        assert (each.name, each.full_name, each.state) == ("ada", "Ada", State.ON_CALL)
        assert each.skills == ["de", "en"]
        assert each.version == 1
        assert each.created_at.tzinfo is UTC
        assert sa.inspect(each).detached
        assert not sa.inspect(each).modified


async def test_a_loaded_instance_can_join_a_session_and_be_flushed(database: PostgresDatabase):
    made = await database.repository(Agent, tenant=TENANT).add(agent("ada"))
    async with database.session(tenant=TENANT) as session:
        session.add(made)
        made.full_name = "Ada L."
    found = await database.repository(Agent, tenant=TENANT).get(made.id)
    assert found.full_name == "Ada L."
    assert found.updated_at > found.created_at


async def test_defaults_are_there_before_the_flush():
    first, second = agent("a"), agent("b")
    assert first.id != second.id
    assert (first.state, first.calls_taken, first.version) == (State.FREE, 0, 1)
    with pytest.raises(TypeError, match="nam"):
        Agent(nam="a")


async def test_deleted_rows_free_their_unique_values(database: PostgresDatabase):
    agents = database.repository(Agent, tenant=TENANT)
    first = await agents.add(agent("ada"))
    with pytest.raises(UniqueViolationError) as caught:
        await agents.add(agent("ada"))
    assert caught.value.constraint == "uq_agents_merchant_id_domain_name"
    assert caught.value.fields == ("merchant_id", "domain", "name")
    assert await agents.delete(first.id)
    await agents.add(agent("ada"))
    assert await agents.count() == 1


async def test_constraints_of_the_table_have_their_own_errors(database: PostgresDatabase):
    agents = database.repository(Agent, tenant=TENANT)
    with pytest.raises(CheckError) as check:
        await agents.add(agent("ada", calls_taken=-1))
    assert check.value.constraint == "ck_agents_positive"
    with pytest.raises(ForeignKeyError) as foreign:
        await database.repository(Leg).add(Leg(id=1, agent_id=uuid4()))
    assert foreign.value.constraint == "fk_legs_agent_id_agents"
    assert foreign.value.fields == ("agent_id",)
    with pytest.raises(ValidationError, match="name"):
        await agents.add(Agent(**TENANT))
    with pytest.raises(ValidationError):  # an integer column of 32 bits
        await agents.add(agent("ada", calls_taken=2**40))
    async with database.session() as session:
        with pytest.raises(NotNullError) as missing:
            await session.execute(sa.text("INSERT INTO legs (id) VALUES (1)"))
        await session.rollback()
        assert missing.value.field == "agent_id"
        await session.execute(sa.text("ROLLBACK"))
        await session.execute(sa.text("BEGIN"))
    assert await agents.count() == 0


PROBES: dict[str, Any] = {
    "get": lambda repo, hidden: repo.get(hidden.id),
    "find_one": lambda repo, hidden: repo.find_one(F.id == hidden.id),
    "find": lambda repo, hidden: repo.find(Query(F.id == hidden.id), total=True),
    "find_page": lambda repo, hidden: repo.find_page(Query(F.id == hidden.id), total=True),
    "list": lambda repo, hidden: repo.list({"id": hidden.id}),
    "count": lambda repo, hidden: repo.count(F.id == hidden.id),
    "exists": lambda repo, hidden: repo.exists((F.id == hidden.id) | (F.version >= 0)),
    "stream": lambda repo, hidden: streamed(repo),
    "add": lambda repo, hidden: repo.add(copy_of(hidden)),
    "add_many": lambda repo, hidden: repo.add_many([copy_of(hidden)]),
    "upsert": lambda repo, hidden: repo.upsert(copy_of(hidden)),
    "upsert_many": lambda repo, hidden: repo.upsert_many([copy_of(hidden)]),
    "update": lambda repo, hidden: repo.update(hidden.id, {"full_name": "x"}, expected=ANY),
    "delete": lambda repo, hidden: repo.delete(hidden.id),
}


async def streamed(repository: Repository[Agent]) -> list[Agent]:
    async with aclosing(repository.stream()) as agents:  # type: ignore[type-var]
        return [each async for each in agents]


def copy_of(hidden: Agent) -> Agent:
    return agent("copy", id=hidden.id, full_name="x")


def test_every_public_method_of_a_repository_is_probed():
    public = {name for name, _ in inspect.getmembers(Repository) if not name.startswith("_")}
    assert set(PROBES) == public


@pytest.mark.parametrize("hiding", ["deleted", "other tenant", "other domain"])
@pytest.mark.parametrize("method", PROBES)
async def test_no_method_reaches_rows_that_are_hidden(
    database: PostgresDatabase, method: str, hiding: str
):
    owner = {"deleted": TENANT, "other tenant": OTHER, "other domain": {**TENANT, "domain": "x"}}
    theirs = database.repository(Agent, tenant=owner[hiding])
    hidden = await theirs.add(Agent(**owner[hiding], name="hidden"))
    if hiding == "deleted":
        await theirs.delete(hidden.id)
    before = await raw(database)
    try:
        result = await PROBES[method](database.repository(Agent, tenant=TENANT), hidden)
    except (NotFoundError, StaleVersionError, TenantMismatchError, UniqueViolationError):
        result = None
    items = getattr(result, "items", result)
    assert not items
    assert getattr(result, "total", 0) in (0, None)
    assert await raw(database) == before


async def raw(database: PostgresDatabase) -> list[Any]:
    return list(await database.select(sa.select(Agent.__table__), tenant=ALL_TENANTS))


async def test_statements_over_entities_see_neither_deleted_nor_foreign_rows(
    database: PostgresDatabase,
):
    mine = database.repository(Agent, tenant=TENANT)
    kept = await mine.add(agent("kept"))
    gone = await mine.add(agent("gone"))
    await mine.delete(gone.id)
    foreign = await database.repository(Agent, tenant=OTHER).add(Agent(**OTHER, name="foreign"))
    await database.repository(Leg).add_many(
        [Leg(id=number, agent_id=each.id) for number, each in enumerate((kept, gone, foreign))]
    )
    names = await database.select(sa.select(Agent.name), tenant=TENANT)
    assert [row[0] for row in names] == ["kept"]
    joined = sa.select(Leg.id).join(Agent, Agent.id == Leg.agent_id)
    assert [row[0] for row in await database.select(joined, tenant=TENANT)] == [0]
    everyone = await database.select(sa.select(Agent.name).order_by("name"), tenant=ALL_TENANTS)
    assert [row[0] for row in everyone] == ["foreign", "kept"]
    async with database.session(tenant=TENANT) as session:
        assert await session.get(Agent, foreign.id) is None
        await session.execute(sa.update(Agent).values(full_name="touched"))
        await session.execute(sa.delete(Agent).where(Agent.name != "kept"))
    touched = sorted((row.name, row.display) for row in await raw(database))
    assert touched == [("foreign", None), ("gone", None), ("kept", "touched")]


async def test_each_statement_without_its_tenant_is_refused(database: PostgresDatabase):
    mine = await database.repository(Agent, tenant=TENANT).add(agent("mine"))
    statements = [sa.select(Agent), sa.select(Leg).join(Agent), sa.delete(Agent)]
    for tenant in (None, {"merchant_id": "m1"}, None):
        for statement in statements:
            with pytest.raises(TenantRequiredError):
                async with database.session(tenant=tenant) as session:
                    await session.execute(statement)
        with pytest.raises(TenantRequiredError):
            await database.select(sa.select(Agent), tenant=tenant)
        assert len(await database.select(sa.select(Agent), tenant=TENANT)) == 1
        assert list(await database.select(sa.select(Leg))) == []
    assert [row.id for row in await raw(database)] == [mine.id]


FOREIGN_WRITES: dict[str, tuple[type[Exception], Any]] = {
    "add": (TenantMismatchError, lambda s, _: s.add(Agent(**OTHER, name="sneaked"))),
    "change": (TenantMismatchError, lambda s, theirs: s.add(renamed(theirs))),
    "take over": (TenantMismatchError, lambda s, theirs: s.add(renamed(theirs, **TENANT))),
    "delete": (TenantMismatchError, lambda s, theirs: s.delete(theirs)),
    "insert": (TenantRequiredError, lambda s, _: s.execute(
        sa.insert(Agent).values(id=uuid4(), **OTHER, name="sneaked"))),
    "upsert": (TenantRequiredError, lambda s, theirs: s.execute(
        insert(Agent).values(id=theirs.id, **TENANT, name="stolen")
        .on_conflict_do_update(index_elements=["id"], set_=TENANT))),
    "hand over": (TenantMismatchError, lambda s, _: s.execute(sa.update(Agent).values(**OTHER))),
    "hand over by parameters": (TenantMismatchError, lambda s, _: s.execute(
        sa.update(Agent), {"merchant_id": "m2"})),
    "update by key": (UnsupportedOperation, lambda s, theirs: s.execute(
        sa.update(Agent), [{"id": theirs.id, "full_name": "x"}])),
    "copy": (UnsupportedOperation, lambda s, _: s.execute(
        sa.insert(Leg).from_select(["id", "agent_id"], sa.select(sa.literal(1), Agent.id)))),
}  # fmt: skip


def renamed(theirs: Agent, **values: str) -> Agent:
    for name, value in {"full_name": "x", **values}.items():
        setattr(theirs, name, value)
    return theirs


@pytest.mark.parametrize("write", FOREIGN_WRITES)
async def test_a_session_writes_rows_of_its_tenant_only(database: PostgresDatabase, write: str):
    await database.repository(Agent, tenant=TENANT).add(agent("mine"))
    theirs = await database.repository(Agent, tenant=OTHER).add(Agent(**OTHER, name="theirs"))
    before = await raw(database)
    error, work = FOREIGN_WRITES[write]

    async def attempt(tenant: Any) -> None:
        async with database.session(tenant=tenant) as session:
            if inspect.isawaitable(pending := work(session, theirs)):
                await pending

    with pytest.raises(error):
        await attempt(TENANT)
    with pytest.raises((error, TenantRequiredError)):
        await attempt(None)
    assert await raw(database) == before


async def test_a_session_for_all_tenants_may_write_for_each(database: PostgresDatabase):
    async with database.session(tenant=ALL_TENANTS) as session:
        session.add_all([agent("mine"), Agent(**OTHER, name="theirs")])
        await session.execute(sa.insert(Agent).values(id=uuid4(), **OTHER, name="more"))
    assert sorted(row.name for row in await raw(database)) == ["mine", "more", "theirs"]


async def test_a_session_and_repositories_share_one_transaction(database: PostgresDatabase):

    async def failing() -> None:
        async with database.transaction() as unit:
            await unit.repository(Agent, tenant=TENANT).add(agent("ada"))
            session = await orm_session(unit, tenant=TENANT)
            assert (await session.scalars(sa.select(Agent.name))).all() == ["ada"]
            session.add(agent("bob"))
            await session.commit()  # of the session: changes nothing for others
            assert await unit.repository(Agent, tenant=TENANT).count() == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert await raw(database) == []
    async with database.transaction() as unit:
        session = await orm_session(unit, tenant=TENANT)
        async with session.begin_nested() as savepoint:
            session.add(agent("ada"))
            await savepoint.rollback()
        session.add(agent("bob"))  # flushed by the unit's commit
    assert [row.name for row in await raw(database)] == ["bob"]


async def test_select_refuses_to_write(database: PostgresDatabase):
    with pytest.raises(ValidationError):
        await database.select(sa.delete(Leg))


async def test_the_tenant_of_the_context_is_not_enough_for_two_fields(database: PostgresDatabase):
    with bind(tenant="m1"), pytest.raises(TenantRequiredError):
        database.repository(Agent)


def test_a_total_unique_constraint_beside_soft_delete_is_refused():
    class Models(Base):
        __abstract__ = True
        metadata = new_metadata()

    with pytest.raises(EntityDefinitionError, match="__unique__"):

        class Named(SoftDeleteMixin, Models):  # pyright: ignore[reportUnusedClass]
            __tablename__ = "named"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(unique=True)


class Reversed(sa.TypeDecorator[str]):
    """As those that encrypt: what SQLAlchemy would store is not what the instance holds."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value[::-1]

    def process_result_value(self, value: Any, dialect: Any) -> str | None:
        return value and value[::-1]


class Short(sa.TypeDecorator[str]):
    """Converts nothing, so it may be used."""

    impl = sa.String(5)
    cache_ok = True


class Models(Base):
    """Tables that other tests do not have."""

    __abstract__ = True
    metadata = new_metadata()


class Narrow(Models):
    """Columns narrower than the contract's kinds, and a renamed unique one."""

    __tablename__ = "narrow"
    __unique__ = (("full_name",),)

    id: Mapped[int] = mapped_column(primary_key=True)
    small: Mapped[int] = mapped_column(sa.SmallInteger, default=1)
    full_name: Mapped[str | None] = mapped_column("display", Short)
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(6, 2), default=Decimal(1))


async def test_values_that_do_not_fit_a_narrow_column_are_refused_by_every_write(
    database: PostgresDatabase,
):
    table: Any = Narrow.__table__
    async with database.session() as session:
        await session.execute(sa.schema.CreateTable(table))
    rows = database.repository(Narrow)
    await rows.add(Narrow(id=1, full_name="ada"))
    for wrong in ({"small": 2**15}, {"small": -(2**40)}, {"amount": Decimal(10**4)}):
        for write in (
            rows.add(Narrow(id=2, **wrong)),
            rows.add_many([Narrow(id=3), Narrow(id=2, **wrong)]),
            rows.upsert(Narrow(id=1, **wrong)),
            rows.upsert_many([Narrow(id=3), Narrow(id=1, **wrong)]),
            rows.update(1, wrong, expected=ANY),
        ):
            with pytest.raises(ValidationError, match="fit"):
                await write
    assert await rows.count() == 1
    assert database._postgres.pool().in_use == 0
    with pytest.raises(UniqueViolationError) as caught:
        await rows.add(Narrow(id=2, full_name="ada"))
    assert caught.value.fields == ("full_name",)


def test_a_class_over_two_tables_is_refused():
    with pytest.raises(EntityDefinitionError, match="one table"):

        class Wider(Narrow):  # pyright: ignore[reportUnusedClass]
            __tablename__ = "wider"
            id: Mapped[int] = mapped_column(sa.ForeignKey("narrow.id"), primary_key=True)


def test_an_expression_is_no_field():
    with pytest.raises(EntityDefinitionError, match="expression"):

        class Shouting(Models):  # pyright: ignore[reportUnusedClass]
            __tablename__ = "shouting"
            id: Mapped[int] = mapped_column(primary_key=True)
            loud: Mapped[bool] = column_property(sa.true())


@pytest.mark.parametrize(
    ("type_", "hint"),
    [
        (sa.DateTime(), "timezone=True"),
        (sa.Interval(), "text, number"),
        (sa.Enum(State), "native_enum=False"),
        (sa.Enum(State, native_enum=False), "values_callable"),
        (sa.Uuid(as_uuid=False), "as_uuid=True"),
        (sa.Uuid(native_uuid=False), "own type"),
        (sa.Numeric(asdecimal=False), "Double"),
        (sa.REAL(), "Double"),
        (sa.Float(24), "Double"),
        (sa.CHAR(5), "String"),
        (sa.PickleType(), "conversion"),
        (Reversed(), "conversion"),
        ((sa.BigInteger, sa.Computed("id * 2")), "only the server"),
        ((sa.BigInteger, sa.Identity(always=True)), "only the server"),
    ],
)
def test_a_column_that_cannot_be_an_entitys_says_what_to_use(type_: Any, hint: str):
    class Models(Base):
        __abstract__ = True
        metadata = new_metadata()

    type_ = type_ if isinstance(type_, tuple) else (type_,)
    key: Any = mapped_column(sa.BigInteger, primary_key=True)
    attributes = {"__tablename__": "wrong", "id": key, "value": mapped_column(*type_)}
    with pytest.raises(EntityDefinitionError, match=hint):
        type(f"Wrong{uuid4().hex}", (Models,), attributes)


def test_a_class_without_a_table_is_no_entity():
    with pytest.raises(EntityDefinitionError, match="__tablename__"):
        entity_info(Records)
