"""A service that changes accounts and tells of it, to be killed and paused."""

import asyncio
import json
import os
import random
import sys
from dataclasses import dataclass, field
from uuid import uuid4

from outbox_ledger import REGISTRY, STREAMS, Booked, accounts, begin, opened, say

from common.db.core import CommitOutcomeUnknown, UnitOfWork
from common.db.postgres import PostgresDatabase
from common.errors import AppError
from common.events.core.testing import History
from common.events.outbox import Outbox
from common.events.outbox._sql import fetch

NEXT = "UPDATE account SET number = number + $2 WHERE id = $1 RETURNING number"
PROVE = """\
INSERT INTO change (id, account, number, writer)
SELECT *, $4 FROM unnest($1::text[], $2::text[], $3::int[])"""
HOLD = """\
UPDATE change SET held_at = clock_timestamp() WHERE id = ANY ($1::text[]) RETURNING held_at"""
OVERTAKEN = """\
SELECT EXISTS (SELECT FROM change d JOIN effect e USING (id) WHERE d.made_at > $1)"""
LONGEST_HOLD = 10.0
WAIT = "SELECT FROM account WHERE id = $1 FOR UPDATE"
LOOK = "SELECT count(*) FROM change WHERE id = ANY ($1::text[])"


class RolledBackError(Exception):
    """The writer thinks better of it."""


@dataclass
class Writer:
    """Makes changes until enough have committed.

    Args:
        number: Of the writer.
        folder: Where the journal is.
        wanted: Changes to commit.
        keys: How many accounts there are.
        pause: Mean seconds between the transactions of a task.
        hold: Most seconds for which a transaction is held open; longer if none overtook it.
        dies_at: Transaction in whose midst the process ends; 0: none.
    """

    number: int
    folder: str
    wanted: int
    keys: int
    pause: float
    hold: float
    dies_at: int
    database: PostgresDatabase
    chance: random.Random
    made: int = 0
    begun: int = 0
    holding: int = 0
    outbox: Outbox = field(
        default_factory=lambda: Outbox(source="/bank", registry=REGISTRY, streams=STREAMS)
    )

    def __post_init__(self) -> None:
        self.history = History(journal=f"{self.folder}/journal")

    async def run(self, tasks: int) -> None:
        await asyncio.gather(*(self._task() for _ in range(tasks)))

    async def _task(self) -> None:
        while self.made < self.wanted or self.begun < self.dies_at:
            await self._change()
            await asyncio.sleep(self.chance.expovariate(1 / self.pause) if self.pause else 0)

    async def _change(self) -> None:
        """One transaction, and what the journal may say of it afterwards."""
        self.begun += 1
        dies = self.begun == self.dies_at
        events: dict[str, Booked] = {}
        try:
            async with self.database.transaction() as tx:
                await self._write(tx, events)
                mood = self.chance.random()
                if dies:
                    os._exit(9)
                if mood < 0.02 and not self.holding:
                    await self._hold(tx, list(events))
                if mood > 0.9:
                    raise RolledBackError
        except RolledBackError:
            self._record("abandoned", events)
        except CommitOutcomeUnknown:
            committed = await self._look(events)
            say("unknown", "committed" if committed else "rolled back")
            self._record("acknowledged" if committed else "abandoned", events)
        except AppError as error:
            # Only CommitOutcomeUnknown may be a commit: the books at the end hold it to that.
            say("failed", error.code)
            self._record("abandoned", events)
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))
        else:
            self._record("acknowledged", events)

    async def _write(self, tx: UnitOfWork, events: dict[str, Booked]) -> None:
        """Change an account or two, and add an event for each change."""
        chosen = self.chance.sample(accounts(self.keys), 1 if self.chance.random() < 0.8 else 2)
        for account in sorted(chosen):  # in one order for all: no deadlocks
            count = 1 if self.chance.random() < 0.8 else 3
            rows = await fetch(tx, "update", "account", NEXT, account, count)
            for number in range(rows[0][0] - count + 1, rows[0][0] + 1):
                one = f"{account}-{number}-{uuid4().hex[:8]}"
                # Under the lock of the account's row, so that these are in the order of commits.
                self.history.attempted(one, key=account)
                events[one] = Booked(account=account, number=number)
        values = list(events), [e.account for e in events.values()]
        numbers = [e.number for e in events.values()]
        await fetch(tx, "insert", "change", PROVE, *values, numbers, self.number)
        for one, event in events.items():
            await self.outbox.add(tx, event, id=one)

    async def _hold(self, tx: UnitOfWork, ids: list[str]) -> None:
        """Commit late: others take later positions meanwhile, commit, and have their effect."""
        self.holding += 1
        try:
            since = (await fetch(tx, "update", "change", HOLD, ids))[0][0]
            await asyncio.sleep(self.chance.uniform(self.hold / 2, self.hold))
            async with asyncio.timeout(LONGEST_HOLD):
                while not (await fetch(self.database, "select", "effect", OVERTAKEN, since))[0][0]:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        finally:
            self.holding -= 1

    async def _look(self, events: dict[str, Booked]) -> bool:
        """Find out what became of a transaction: wait for its locks, then look."""
        account = next(iter(events.values())).account
        while True:
            try:
                async with self.database.transaction() as tx:
                    await fetch(tx, "select", "account", WAIT, account)
                    found = (await fetch(tx, "select", "change", LOOK, list(events)))[0][0]
            except AppError:
                await asyncio.sleep(0.1)
            else:
                assert found in {0, len(events)}, "a transaction commits as a whole"
                return bool(found)

    def _record(self, kind: str, events: dict[str, Booked]) -> None:
        for one in events:
            getattr(self.history, kind)(one)
        if kind == "acknowledged":
            self.made += len(events)


async def main(*, postgres: str, seed: int, tasks: int, **options) -> None:
    async with opened(postgres) as database:
        # Not for secrets.
        writer = Writer(database=database, chance=random.Random(seed), **options)
        await writer.run(tasks)


if __name__ == "__main__":
    begin()
    asyncio.run(main(**json.loads(sys.argv[1])))
