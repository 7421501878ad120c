"""What a relay tells observers: operations with the lag, and failures."""

from collections.abc import Iterator

import pytest
from outbox_support import Flashed, Lit, add, count, emptied, make_relay, run_sql, until

from common.context import observe
from common.events.core import PublishRejected


class Notes:
    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str, dict[str, object]]] = []

    def on_start(self, op) -> None:
        pass

    def on_end(self, op) -> None:
        self.ended.append((op.kind, op.name, op.outcome, dict(op.attributes)))

    def of(self, kind: str, name: str) -> list[tuple[str, dict[str, object]]]:
        return [(each[2], each[3]) for each in self.ended if each[:2] == (kind, name)]


@pytest.fixture
def notes() -> Iterator[Notes]:
    noted = Notes()
    with observe(noted):
        yield noted


async def test_a_batch_is_an_operation_with_numbers_and_age(database, transport, notes):
    await add(database, *[Lit(lamp=str(n)) for n in range(7)])
    await run_sql(database, "UPDATE outbox SET created_at = created_at - interval '90 s'")
    async with make_relay(database, transport):
        await emptied(database)
    ((outcome, facts),) = notes.of("messaging.publish", "outbox")
    assert outcome == "ok"
    assert facts["messaging.system"] == "memory"
    assert facts["messaging.batch.message_count"] == 7
    assert facts["outbox.published"] == 7
    assert facts["messaging.batch.failed_count"] == 0
    assert 90 <= facts["outbox.lag.age"] < 3_600


async def test_a_batch_with_refusals_is_a_failure(database, transport, notes):
    await add(database, Flashed(number=1), Lit(lamp="a"))
    with transport.failing(PublishRejected("no"), subject="evt.lamp.flashed"):
        async with make_relay(database, transport, attempts=1):
            await emptied(database)
    ((outcome, facts),) = notes.of("messaging.publish", "outbox")
    assert outcome == "error"
    assert facts["outbox.published"] == facts["messaging.batch.failed_count"] == 1


async def test_the_lag_is_reported_again_and_again(database, transport, notes):
    await add(database, *[Lit(lamp=str(n)) for n in range(4)], Flashed(number=1))
    await run_sql(database, "UPDATE outbox SET created_at = created_at - interval '90 s'")

    def reported(**wanted: int) -> bool:
        names = {"rows": "outbox.lag.rows", "failing": "outbox.failing", "dead": "outbox.dead"}
        return any(
            outcome == "ok" and all(facts[names[name]] == n for name, n in wanted.items())
            for outcome, facts in notes.of("internal", "outbox.lag")
        )

    with transport.failing(PublishRejected("no")):
        slow = {"retry_first_seconds": 3600, "retry_max_seconds": 3600, "upkeep_seconds": 0.05}
        async with make_relay(database, transport, attempts=2, **slow):
            await until(lambda: reported(rows=5, failing=5, dead=0))
        ages = [facts["outbox.lag.age"] for _, facts in notes.of("internal", "outbox.lag")]
        assert ages
        assert all(90 <= age < 3_600 for age in ages)
        await run_sql(database, "UPDATE outbox SET next_attempt_at = NULL, attempts = 1")
        async with make_relay(database, transport, attempts=2, **slow):
            await until(lambda: reported(rows=0, failing=0, dead=5))


async def test_what_fails_in_upkeep_does_not_keep_the_rest_from_its_turn(database, transport):
    await run_sql(database, "DROP TABLE outbox_archive")
    await run_sql(
        database, "INSERT INTO inbox VALUES ('c', 'm', clock_timestamp() - interval '15 days')"
    )
    async with make_relay(database, transport):
        await until(lambda: pruned(database))


async def pruned(database) -> bool:
    return await count(database, "inbox") == 0
