from contextlib import aclosing

import pytest

from common.context import observe
from common.db.core import ANY, F, MemoryDatabase, UniqueViolationError
from common.db.core.testing import Item, Sample
from common.db.core.testing._scoping import public_methods
from common.errors import NotFoundError, ValidationError

TENANT = {"merchant": "m1", "domain": "shop"}


class Recorder:
    def __init__(self):
        self.seen = []

    def on_start(self, operation):
        pass

    def on_end(self, operation):
        self.seen.append(operation)


@pytest.fixture
async def database():
    async with MemoryDatabase() as database:
        yield database


async def _stream(repository):
    async with aclosing(repository.stream()) as stream:
        return [entity async for entity in stream]


CALLS = {
    "get": (lambda r: r.get(1), "get"),
    "find_one": (lambda r: r.find_one(F.id == 1), "select"),
    "find": (lambda r: r.find(F.id == 1), "select"),
    "find_page": (lambda r: r.find_page(F.id == 1), "select"),
    "list": (lambda r: r.list(), "select"),
    "count": (lambda r: r.count(), "count"),
    "exists": (lambda r: r.exists(), "exists"),
    "stream": (_stream, "stream"),
    "add": (lambda r: r.add(Sample(id=2)), "insert"),
    "add_many": (lambda r: r.add_many([Sample(id=2)]), "insert"),
    "upsert": (lambda r: r.upsert(Sample(id=1)), "upsert"),
    "upsert_many": (lambda r: r.upsert_many([Sample(id=1)]), "upsert"),
    "update": (lambda r: r.update(1, {"number": 1}, expected=ANY), "update"),
    "delete": (lambda r: r.delete(1), "delete"),
}


def test_every_public_method_is_called_here():
    assert set(CALLS) == public_methods()


@pytest.mark.parametrize("method", sorted(CALLS))
async def test_every_method_reports_what_it_does(database, method):
    repository = database.repository(Sample)
    await repository.add(Sample(id=1))
    call, name = CALLS[method]
    recorder = Recorder()
    with observe(recorder):
        await call(repository)
    assert recorder.seen
    for operation in recorder.seen:
        assert (operation.kind, operation.name) == ("db", f"{name} contract_samples")
        assert operation.outcome == "ok"
        attributes = operation.attributes
        assert attributes["db.system.name"] == "memory"
        assert attributes["db.operation.name"] == name
        assert attributes["db.collection.name"] == "contract_samples"
    if name in ("get", "select", "stream"):
        assert recorder.seen[0].attributes["db.response.returned_rows"] == 1
    if method.endswith("_many"):
        assert recorder.seen[0].attributes["db.operation.batch.size"] == 1


async def test_transactions_and_failures_are_reported_too(database):
    recorder = Recorder()
    with observe(recorder):
        async with database.transaction() as unit:
            await unit.repository(Sample).add(Sample(id=1))
        with pytest.raises(UniqueViolationError):
            async with database.transaction() as unit:
                await unit.repository(Sample).add(Sample(id=1))
        await database.health()
    assert [(each.name, each.outcome, each.error_code) for each in recorder.seen] == [
        ("begin", "ok", None),
        ("insert contract_samples", "ok", None),
        ("commit", "ok", None),
        ("begin", "ok", None),
        ("insert contract_samples", "error", "DB_UNIQUE_VIOLATION"),
        ("rollback", "ok", None),
        ("ping", "ok", None),
    ]


async def test_bad_input_reaches_no_database(database):
    items = database.repository(Item, tenant=TENANT)
    recorder = Recorder()
    with observe(recorder):
        for call in (
            lambda: items.find(F.nope == 1),
            lambda: items.add(Item(slug="\0")),
            lambda: items.find(limit=0),
            lambda: items.find(after="x"),
            lambda: items.update("x", {}, expected=ANY),
        ):
            with pytest.raises(ValidationError):
                await call()
    assert recorder.seen == []


async def test_no_value_gets_into_what_is_reported(database):
    samples = database.repository(Sample)
    recorder = Recorder()
    with observe(recorder):
        await samples.add(Sample(id=1, text="secret-value"))
        await samples.find(F.text == "secret-value")
        with pytest.raises(UniqueViolationError) as caught:
            await samples.add(Sample(id=1, text="secret-value"))
        with pytest.raises(NotFoundError):
            await samples.get(2)
    assert "secret" not in repr([(each.name, each.attributes) for each in recorder.seen])
    assert "secret" not in repr(caught.value)
