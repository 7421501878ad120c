"""Storage of the in-memory backend: versions of rows, transactions over them, conflicts."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from common.db.core._entity import EntityInfo, Row, Unique
from common.db.core._errors import (
    EntityDefinitionError,
    SerializationConflict,
    UniqueViolationError,
)
from common.db.core._kind import Kind
from common.db.core._locks import Locks
from common.db.core._session import Isolation, key_conflict

Key: TypeAlias = tuple[Any, ...]
Values: TypeAlias = tuple[Any, ...]

_NEVER = 1 << 62


class Table:
    """All versions of one table's rows, and indexes of the newest."""

    def __init__(self, info: EntityInfo[Any]) -> None:
        self.names = info.names
        self.cells: dict[Key, list[tuple[int, Row | None]]] = {}
        self.indexes: dict[Unique, dict[Values, Key]] = {unique: {} for unique in info.unique}

    def at(self, key: Key, instant: int) -> Row | None:
        """Return the row as of an instant."""
        for written, row in reversed(self.cells.get(key, ())):
            if written <= instant:
                return row
        return None

    def changed(self, key: Key) -> int:
        """Return the instant of a row's newest version."""
        versions = self.cells.get(key)
        return versions[-1][0] if versions else 0

    def put(self, info: EntityInfo[Any], key: Key, row: Row | None, instant: int) -> Row | None:
        """Add a version; return the one before."""
        versions = self.cells.setdefault(key, [])
        before = versions[-1][1] if versions else None
        versions.append((instant, row))
        for unique, index in self.indexes.items():
            old, new = unique_values(info, unique, before), unique_values(info, unique, row)
            if old is not None and index.get(old) == key:
                del index[old]
            if new is not None:
                index[new] = key
        return before

    def prune(self, key: Key, oldest: int) -> None:
        """Drop the versions that nobody can see any more."""
        versions = self.cells[key]
        while len(versions) > 1 and versions[1][0] <= oldest:
            del versions[0]
        if len(versions) == 1 and versions[0][1] is None:
            del self.cells[key]


class Store:
    """All tables, the clock of their versions, and the transactions under way.

    Args:
        timeout_seconds: Longest wait for a row lock.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.locks = Locks(timeout_seconds)
        self.now = 0
        self.active: set[Transaction] = set()
        self._tables: dict[str, Table] = {}
        # What was committed while snapshots are open: instant, entity, key, row before and after.
        self._log: list[tuple[int, str, Row | None, Row | None]] = []
        self._stale: list[tuple[Table, Key]] = []

    def table(self, info: EntityInfo[Any]) -> Table:
        """Return the entity's table, which its first use creates."""
        table = self._tables.get(info.table)
        if table is None:
            table = self._tables[info.table] = Table(info)
        if table.names != info.names:
            raise EntityDefinitionError(
                f"{info.name} shares the table {info.table!r} with a class of other fields",
                entity=info.name,
            )
        for unique in info.unique:
            table.indexes.setdefault(unique, {})
        return table

    def commit(self, transaction: "Transaction") -> None:
        """Make a transaction's rows the newest; without a single await, so at one instant."""
        if not transaction.written:
            return
        transaction.validate(self._log)
        self.now += 1
        for (name, key), row in transaction.written.items():
            table, info = self._tables[name], transaction.infos[name]
            before = table.put(info, key, row, self.now)
            self._log.append((self.now, name, before, row))
            self._stale.append((table, key))

    def end(self, transaction: "Transaction") -> None:
        """Forget a transaction, and what only it could see."""
        self.active.discard(transaction)
        self.locks.release(transaction)
        oldest = min((each.snapshot for each in self.active), default=self.now)
        oldest = min(oldest, self.now)
        self._log = [entry for entry in self._log if entry[0] > oldest]
        stale, self._stale = self._stale, []
        for table, key in stale:
            if key in table.cells:
                table.prune(key, oldest)
                if len(table.cells.get(key, ())) > 1:
                    self._stale.append((table, key))


class Transaction:
    """One transaction: what it sees, what it wrote, and the locks that guard it.

    Read committed sees the newest committed rows, the others those of its start; all see their
    own writes. A row that is written stays locked until the end. Repeatable read and serializable
    refuse to overwrite what changed since their start, and serializable, on commit, also what
    it decided on: any change to rows that a read of it looked for is a conflict.
    """

    def __init__(self, store: Store, isolation: Isolation) -> None:
        self._store = store
        self._isolation = isolation
        self.snapshot = _NEVER if isolation is Isolation.READ_COMMITTED else store.now
        self.infos: dict[str, EntityInfo[Any]] = {}
        self.written: dict[tuple[str, Key], Row | None] = {}
        self._reads: list[tuple[str, Callable[[Row], bool]]] = []
        self._values: dict[tuple[str, Unique], dict[Values, Key]] = {}
        store.active.add(self)

    def get(self, info: EntityInfo[Any], key: Key) -> Row | None:
        """Return the row that the transaction sees."""
        own = (info.table, key)
        if own in self.written:
            return self.written[own]
        return self._store.table(info).at(key, self.snapshot)

    def scan(self, info: EntityInfo[Any], wanted: Callable[[Row], bool]) -> Iterator[Row]:
        """Yield the rows that the transaction sees and wants."""
        self.looked(info, wanted)
        table = self._store.table(info)
        for key in table.cells:
            if (info.table, key) not in self.written:
                row = table.at(key, self.snapshot)
                if row is not None and wanted(row):
                    yield row
        for (name, _), row in self.written.items():
            if name == info.table and row is not None and wanted(row):
                yield row

    def looked(self, info: EntityInfo[Any], wanted: Callable[[Row], bool]) -> None:
        """Remember what was looked for, so that serializable can tell whether it changed."""
        if self._isolation is Isolation.SERIALIZABLE:
            self._reads.append((info.table, wanted))

    async def lock(self, info: EntityInfo[Any], key: Key) -> None:
        """Lock a row, to write it.

        Raises:
            SerializationConflict: It changed since this transaction's snapshot.
        """
        await self._store.locks.acquire(self, (info.table, key))
        if self._store.table(info).changed(key) > self.snapshot:
            raise SerializationConflict(
                "a concurrent transaction changed the row", table=info.table
            )

    async def insert(self, info: EntityInfo[Any], key: Key, row: Row) -> None:
        """Add a row whose key is free.

        Raises:
            UniqueViolationError: The key, or the values of a unique constraint, are taken.
        """
        await self._store.locks.acquire(self, (info.table, key))
        if self.newest(info, key) is not None:
            raise key_conflict(info)
        await self.put(info, key, row)

    async def put(self, info: EntityInfo[Any], key: Key, row: Row | None) -> None:
        """Write a row that is locked.

        Raises:
            UniqueViolationError: The values of a unique constraint are taken.
        """
        for unique in info.unique:
            await self._claim(info, unique, key, row)
        self.infos[info.table] = info
        self.written[info.table, key] = row

    def newest(self, info: EntityInfo[Any], key: Key) -> Row | None:
        """Return the row that constraints see: own, or committed by whomever."""
        own = (info.table, key)
        if own in self.written:
            return self.written[own]
        return self._store.table(info).at(key, _NEVER)

    async def _claim(
        self, info: EntityInfo[Any], unique: Unique, key: Key, row: Row | None
    ) -> None:
        own = self._values.setdefault((info.table, unique), {})
        old = unique_values(info, unique, self.newest(info, key))
        new = unique_values(info, unique, row)
        if new is not None and new != old:
            await self._store.locks.acquire(self, (info.table, unique, new))
            holder = own.get(new)
            if holder is None:
                holder = self._store.table(info).indexes[unique].get(new)
                if (info.table, holder) in self.written:
                    holder = None  # its values were changed in this transaction
            if holder is not None and holder != key:
                raise UniqueViolationError(
                    f"a {info.name} with this {', '.join(unique.fields)} exists already",
                    constraint=info.constraint_name(unique),
                    fields=unique.fields,
                    conflicting_resource=info.name,
                )
        if old is not None and own.get(old) == key:
            del own[old]
        if new is not None:
            own[new] = key

    def validate(self, log: Iterable[tuple[int, str, Row | None, Row | None]]) -> None:
        """Refuse to commit what was decided on rows that changed meanwhile.

        Raises:
            SerializationConflict: One of them did.
        """
        for instant, name, *rows in log:
            if instant > self.snapshot:
                for table, wanted in self._reads:
                    if table == name and any(row is not None and wanted(row) for row in rows):
                        raise SerializationConflict(
                            "a concurrent transaction changed what was read", table=name
                        )


def unique_values(info: EntityInfo[Any], unique: Unique, row: Row | None) -> Values | None:
    """Return what must be unique; ``None`` for deleted rows and for nulls, which are distinct."""
    if row is None or (info.deleted is not None and row[info.index(info.deleted)] is not None):
        return None
    values = tuple([row[info.index(name)] for name in unique.fields])
    return None if None in values else values


def freeze(info: EntityInfo[Any], row: Row) -> Row:
    """Return a row with its JSON as text, so that nobody holds a part of what is stored."""
    return _with_json(info, row, lambda value: json.dumps(value, ensure_ascii=False))


def freeze_changes(info: EntityInfo[Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes with their JSON as text."""
    return {
        name: json.dumps(value, ensure_ascii=False)
        if info.field(name).kind is Kind.JSON and value is not None
        else value
        for name, value in changes.items()
    }


def thaw(info: EntityInfo[Any], row: Row) -> Row:
    """Return a row with its JSON read from text."""
    return _with_json(info, row, json.loads)


def _with_json(info: EntityInfo[Any], row: Row, convert: Callable[[Any], Any]) -> Row:
    if not any(field.kind is Kind.JSON for field in info.fields):
        return row
    return tuple(
        convert(value) if field.kind is Kind.JSON and value is not None else value
        for field, value in zip(info.fields, row, strict=True)
    )
