"""Key-value buckets (ADR-8 of nats-architecture-and-design), over nats-py's."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Literal

from common.context import operation, remaining
from common.errors import ValidationError
from common.events.core._errors import BrokerUnavailable, MessageTooLarge
from common.events.nats._api import Api
from common.events.nats._connection import Connection
from common.events.nats._store_errors import (
    BucketNotFound,
    KeyExists,
    RevisionConflict,
    check_bucket,
    jetstream,
    mapped,
)
from common.events.nats._watch import Entry, Watch
from nats.js import errors as js_errors
from nats.js.api import StorageType

MAX_KEY_CHARS = 256

_KEY = re.compile(r"[-/_=A-Za-z0-9]+(\.[-/_=A-Za-z0-9]+)*")
_PATTERN = re.compile(r"(>|(\*|[-/_=A-Za-z0-9]+)(\.(\*|[-/_=A-Za-z0-9]+))*(\.>)?)")


class KeyValue:
    """A bucket of keys and values: see `open_key_value`.

    Every call takes at most ``timeout`` seconds, and less if the deadline of the current context
    is nearer. Calls raise `BrokerUnavailable` when there is no answer by then; what was written
    may then be stored, or not.
    """

    def __init__(self, connection: Connection, name: str, inner: Any, seconds: float) -> None:
        self.name = name
        self._connection = connection
        self._api = Api(connection, connection.config)
        self._inner = inner
        self._seconds = seconds

    async def get(self, key: str) -> Entry | None:
        """Return the entry of a key, or ``None`` if it has no value."""
        async with self._call("get", key):
            try:
                found = await self._inner.get(key)
            except js_errors.KeyNotFoundError:  # of deleted keys, too
                return None
            return Entry(key, found.value or b"", found.revision)

    async def put(self, key: str, value: bytes) -> int:
        """Set the value of a key; return its revision.

        Raises:
            MessageTooLarge: Larger than the server or the bucket takes.
        """
        async with self._call("put", key, value):
            return int(await self._inner.put(key, value))

    async def create(self, key: str, value: bytes) -> int:
        """Set the value of a key that has none; return its revision.

        Raises:
            KeyExists: It has one.
            MessageTooLarge: Larger than the server or the bucket takes.
        """
        async with self._call("create", key, value):
            try:
                return int(await self._inner.create(key, value))
            except js_errors.KeyWrongLastSequenceError as error:
                raise KeyExists(
                    f"{key} has a value already in bucket {self.name}", key=key
                ) from error

    async def update(self, key: str, value: bytes, *, revision: int) -> int:
        """Set the value of a key if nobody has changed it since; return its new revision.

        Args:
            key: The key.
            value: Its new value.
            revision: As `get` has returned it; 0: the key has never had a value.

        Raises:
            RevisionConflict: Somebody has changed it.
            MessageTooLarge: Larger than the server or the bucket takes.
        """
        async with self._call("update", key, value):
            try:
                return int(await self._inner.update(key, value, last=revision))
            except js_errors.KeyWrongLastSequenceError as error:
                raise self._conflict(key, revision) from error

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete the value of a key; nothing happens if it has none.

        Args:
            key: The key.
            revision: Only if nobody has changed it since.

        Raises:
            RevisionConflict: Somebody has changed it.
        """
        async with self._call("delete", key):
            try:
                await self._inner.delete(key, last=revision)
            except js_errors.KeyWrongLastSequenceError as error:
                raise self._conflict(key, revision or 0) from error
            except js_errors.APIError as error:
                if error.err_code == 10071 and revision is not None:
                    raise self._conflict(key, revision) from error
                raise

    async def keys(self, pattern: str = ">", *, limit: int = 10_000) -> list[str]:
        """Return the keys which have a value, in no particular order.

        Args:
            pattern: Such as ``"session.*"`` or ``"session.>"``.
            limit: Most keys.

        Raises:
            ValidationError: There are more.
        """
        found: dict[str, None] = {}
        async with self._call("keys", None):
            watch = await self._watch(pattern, keys_only=True)
            try:
                while watch.ahead:
                    entry = await watch.next()
                    if entry.deleted:
                        found.pop(entry.key, None)
                    else:
                        found[entry.key] = None
                    if len(found) > limit:
                        raise ValidationError(
                            f"bucket {self.name} has more than {limit} such keys: raise limit, or "
                            "narrow the pattern",
                            field="limit",
                        )
            finally:
                await watch.close()
        return list(found)

    @asynccontextmanager
    async def watch(self, pattern: str = ">") -> AsyncGenerator[AsyncIterator[Entry]]:
        """Follow keys: what is there, then every change, for as long as the body runs.

        It goes on after the connection was lost, or servers were away. Of changes meanwhile it
        shows those that the bucket still has: the last of each key, more with a history.

        Args:
            pattern: Such as ``"session.*"`` or ``"session.>"``.

        Raises:
            BucketNotFound: Also while iterating: the bucket was deleted.
            TransportClosed: While iterating: the connection was closed.
        """
        async with self._call("watch", None):
            watch = await self._watch(pattern)
        try:
            yield _entries(watch)
        finally:
            await watch.close()

    async def _watch(self, pattern: str, *, keys_only: bool = False) -> Watch:
        if len(pattern) > MAX_KEY_CHARS or not _PATTERN.fullmatch(pattern):
            raise ValidationError(
                "a pattern is made of keys' words, * for one word and > for the rest",
                field="pattern",
            )
        watch = Watch(self._connection, self._api, self.name, pattern, keys_only=keys_only)
        await watch.start()
        return watch

    def _conflict(self, key: str, revision: int) -> RevisionConflict:
        return RevisionConflict(
            f"{key} in bucket {self.name} is no longer at revision {revision}",
            key=key,
            revision=revision,
        )

    @asynccontextmanager
    async def _call(self, action: str, key: str | None, value: bytes = b"") -> AsyncGenerator[None]:
        if key is not None and (len(key) > MAX_KEY_CHARS or not _KEY.fullmatch(key)):
            raise ValidationError(
                f"a key has up to {MAX_KEY_CHARS} letters, digits and any of -_/= in words "
                "divided by dots",
                field="key",
            )
        if (size := len(value)) > self._connection.max_payload - 1_024:
            raise MessageTooLarge(
                f"a value of {size} bytes is larger than NATS takes",
                size=size,
                limit=self._connection.max_payload - 1_024,
            )
        what = f"key-value bucket {self.name}"
        left = remaining()
        seconds = self._seconds if left is None else min(self._seconds, left)
        attributes = {"db.system": "nats", "db.name": self.name}
        with operation("db", f"nats.kv.{action}", attributes), mapped(what):
            try:
                async with asyncio.timeout(seconds):
                    yield
            except TimeoutError as error:
                raise BrokerUnavailable(f"{what}: no answer in time") from error


async def open_key_value(
    connection: Connection,
    name: str,
    *,
    create: bool = True,
    ttl: timedelta | None = None,
    history: int = 1,
    max_value_bytes: int | None = None,
    max_bytes: int | None = None,
    storage: Literal["file", "memory"] = "file",
    replicas: int = 1,
    timeout: float = 5.0,  # noqa: ASYNC109 - of each later call
) -> KeyValue:
    """Open a bucket, and make it if it is missing.

    An existing bucket is taken as it is: the settings are those of a new one.

    Args:
        connection: Of a `NatsTransport`.
        name: Letters, digits, hyphens and underscores.
        create: Whether to make it.
        ttl: How long values are kept.
        history: How many values of a key are kept, up to 64.
        max_value_bytes: Most bytes of a value.
        max_bytes: Most bytes of the bucket; then writing fails.
        storage: Where.
        replicas: Copies in the cluster.
        timeout: Seconds for each call.

    Raises:
        BucketNotFound: It does not exist, and ``create`` is false.
        ValidationError: The name or a setting cannot be.
        BrokerUnavailable: No answer.
    """
    check_bucket(name)
    if not 1 <= history <= 64:
        raise ValidationError("a bucket keeps 1 to 64 values of a key", field="history")
    with mapped(f"key-value bucket {name}"):
        js = jetstream(connection, timeout)
        try:
            inner = await js.key_value(name)
        except js_errors.BucketNotFoundError as error:
            if not create:
                raise BucketNotFound(f"there is no bucket {name}", bucket=name) from error
            inner = await js.create_key_value(
                bucket=name,
                history=history,
                ttl=ttl.total_seconds() if ttl is not None else None,
                max_value_size=max_value_bytes,
                max_bytes=max_bytes,
                storage=StorageType(storage),
                replicas=replicas,
                direct=True,
            )
    return KeyValue(connection, name, inner, timeout)


async def _entries(watch: Watch) -> AsyncIterator[Entry]:
    while True:
        yield await watch.next()
