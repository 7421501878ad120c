"""Object stores (ADR-20 of nats-architecture-and-design): what is too large for a message.

nats-py makes and finds the buckets. Reading and writing are our own, in the same format: nats-py
leaves a subscription behind when reading is cancelled, parts when writing is, waits for ever when
the connection is lost in between, and takes objects of any size into memory.
"""

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from common.context import operation
from common.errors import ConflictError, MessageBusError, ValidationError
from common.events.core._errors import BrokerUnavailable
from common.events.nats._api import Api
from common.events.nats._connection import Connection
from common.events.nats._errors import ErrCode, JetStreamError, from_answer
from common.events.nats._store_errors import (
    BucketNotFound,
    ObjectDamaged,
    ObjectNotFound,
    ObjectTooLarge,
    check_bucket,
    jetstream,
    mapped,
)
from nats.js import errors as js_errors
from nats.js.api import StorageType

CHUNK_BYTES = 128 * 1_024
"""Size of the parts, as other clients have it."""

MAX_NAME_BYTES = 512

_REPLACED = 100  # times that an object may take the place of the one being read

_ROLLUP = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object.

    Attributes:
        name: Its name.
        size: Bytes.
        chunks: Parts.
        digest: ``"SHA-256=…"``, base64 for URLs.
        modified: When it was stored; ``None`` where that is not known.
    """

    name: str
    size: int
    chunks: int
    digest: str
    modified: datetime | None = None


class ObjectStore:
    """A bucket of objects: see `open_object_store`.

    Each part is asked for or sent on its own, within ``timeout`` seconds.
    """

    def __init__(self, connection: Connection, api: Api, name: str, seconds: float) -> None:
        self.name = name
        self._connection = connection
        self._api = api
        self._seconds = seconds

    async def put(self, name: str, data: bytes | AsyncIterator[bytes]) -> ObjectInfo:
        """Store an object, in place of one of that name.

        Until all of it is stored the old one is there. Nothing is left of it if that fails.

        Args:
            name: Any text of up to 512 bytes.
            data: All of it, or one piece after another.

        Raises:
            BrokerUnavailable: No answer.
        """
        with operation("object_store", "nats.objects.put", {"object_store.bucket": self.name}):
            meta = self._meta(name)
            old = await self._find(name)
            nuid = secrets.token_urlsafe(16)
            subject = self._chunks(nuid)
            digest, size, count = hashlib.sha256(), 0, 0
            described: asyncio.Future[None] | None = None
            try:
                async for chunk in _chunked(data):
                    digest.update(chunk)
                    size += len(chunk)
                    count += 1
                    await _ended(asyncio.ensure_future(self._store(subject, chunk)))
                info = {
                    "name": name,
                    "bucket": self.name,
                    "nuid": nuid,
                    "size": size,
                    "chunks": count,
                    "mtime": datetime.now(UTC).isoformat(),
                    "digest": f"SHA-256={base64.urlsafe_b64encode(digest.digest()).decode()}",
                    "options": {"max_chunk_size": CHUNK_BYTES},
                }
                described = asyncio.ensure_future(
                    self._store(meta, json.dumps(info).encode(), _ROLLUP)
                )
                await _ended(described)
            except BaseException:
                # Once its description was sent the object may be there: its parts must stay.
                if count and described is None:
                    await _finish(self._purge(subject))
                raise
            if old is not None and not old.get("deleted"):
                await self._purge(self._chunks(str(old["nuid"])))
            return _info(info)

    async def get(self, name: str, *, max_bytes: int = 64 << 20) -> bytes:
        """Return an object.

        Args:
            name: Its name.
            max_bytes: Most bytes to take into memory.

        Raises:
            ObjectNotFound: There is none.
            ObjectTooLarge: It is larger: use `stream`.
            ObjectDamaged: Parts are missing, or differ.
            ConflictError: It was replaced all the time.
            BrokerUnavailable: No answer.
        """
        with operation("object_store", "nats.objects.get", {"object_store.bucket": self.name}):
            found = await self._existing(name)
            for _ in range(_REPLACED):
                if (size := int(found["size"])) > max_bytes:
                    raise ObjectTooLarge(
                        f"an object of {size} bytes is larger than max_bytes: raise it, or use "
                        "stream()",
                        size=size,
                        limit=max_bytes,
                    )
                try:
                    return b"".join([part async for part in self._parts(found)])
                except ObjectDamaged:
                    before, found = found, await self._existing(name)
                    if found["nuid"] == before["nuid"]:
                        raise
            raise ConflictError(
                f"an object of bucket {self.name} was replaced again and again while it was read"
            )

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield an object piece by piece.

        That it is whole is only known at the end: act on it then. An object that is replaced
        meanwhile ends with `ObjectDamaged`.

        Raises:
            ObjectNotFound: There is none.
            ObjectDamaged: Parts are missing, or differ.
            BrokerUnavailable: No answer.
        """
        async for part in self._parts(await self._existing(name)):
            yield part

    async def info(self, name: str) -> ObjectInfo | None:
        """Return what is known of an object, or ``None`` if there is none."""
        found = await self._find(name)
        return None if found is None or found.get("deleted") else _info(found)

    async def delete(self, name: str) -> bool:
        """Delete an object; whether it was there."""
        with operation("object_store", "nats.objects.delete", {"object_store.bucket": self.name}):
            found = await self._find(name)
            if found is None or found.get("deleted"):
                return False
            gone = {**found, "deleted": True, "size": 0, "chunks": 0, "digest": ""}
            await self._store(self._meta(name), json.dumps(gone).encode(), _ROLLUP)
            await self._purge(self._chunks(str(found["nuid"])))
            return True

    async def _existing(self, name: str) -> dict[str, Any]:
        found = await self._find(name)
        if found is None or found.get("deleted"):
            raise ObjectNotFound(f"bucket {self.name} has no such object", object_name=name)
        if (found.get("options") or {}).get("link"):
            raise ValidationError("links between objects are not followed", field="name")
        return found

    async def _find(self, name: str) -> dict[str, Any] | None:
        subject = self._meta(name)
        try:
            answer = await self._api.request(
                f"STREAM.MSG.GET.OBJ_{self.name}", {"last_by_subj": subject}, timeout=self._seconds
            )
        except JetStreamError as error:
            if error.err_code != ErrCode.MESSAGE_NOT_FOUND:
                raise
            return None
        found: dict[str, Any] = json.loads(base64.b64decode(answer["message"]["data"]))
        return found

    async def _parts(self, found: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield the parts, and compare the digest at the end."""
        digest, size, sequence = hashlib.sha256(), 0, 1
        subject = self._chunks(str(found["nuid"]))
        while size < int(found["size"]):
            request = {"seq": sequence, "next_by_subj": subject}
            try:
                answer = await self._api.request(
                    f"STREAM.MSG.GET.OBJ_{self.name}", request, timeout=self._seconds
                )
            except JetStreamError as error:
                if error.err_code != ErrCode.MESSAGE_NOT_FOUND:
                    raise
                break
            part = base64.b64decode(answer["message"]["data"])
            sequence = int(answer["message"]["seq"]) + 1
            digest.update(part)
            size += len(part)
            yield part
        stored = str(found["digest"]).partition("=")[2]
        if base64.urlsafe_b64encode(digest.digest()).decode() != stored:
            raise ObjectDamaged(
                f"an object of bucket {self.name} is not whole: store it again",
                object_name=str(found["name"]),
            )

    async def _store(self, subject: str, data: bytes, headers: bytes = b"") -> None:
        answer = await self._connection.request(
            subject, data, timeout=self._seconds, headers=headers
        )
        told = json.loads(answer.data)
        if "error" in told:
            raise from_answer(told["error"], what=f"object store {self.name}")

    async def _purge(self, subject: str) -> None:
        await self._api.request(
            f"STREAM.PURGE.OBJ_{self.name}", {"filter": subject}, timeout=self._seconds
        )

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self.name}.C.{nuid}"

    def _meta(self, name: str) -> str:
        encoded = name.encode()
        if not 1 <= len(encoded) <= MAX_NAME_BYTES:
            raise ValidationError(f"a name has 1 to {MAX_NAME_BYTES} bytes", field="name")
        return f"$O.{self.name}.M.{base64.urlsafe_b64encode(encoded).decode()}"


async def open_object_store(
    connection: Connection,
    api: Api,
    name: str,
    *,
    create: bool = True,
    ttl: timedelta | None = None,
    max_bytes: int | None = None,
    storage: Literal["file", "memory"] = "file",
    replicas: int = 1,
    timeout: float = 5.0,  # noqa: ASYNC109 - of each later call
) -> ObjectStore:
    """Open a bucket of objects, and make it if it is missing.

    An existing bucket is taken as it is: the settings are those of a new one.

    Args:
        connection: Of a `NatsTransport`.
        api: Likewise.
        name: Letters, digits, hyphens and underscores.
        create: Whether to make it.
        ttl: How long objects are kept.
        max_bytes: Most bytes of the bucket; then storing fails.
        storage: Where.
        replicas: Copies in the cluster.
        timeout: Seconds for each part.

    Raises:
        BucketNotFound: It does not exist, and ``create`` is false.
        ValidationError: The name cannot be.
        BrokerUnavailable: No answer.
    """
    check_bucket(name)
    with mapped(f"object store {name}"):
        js = jetstream(connection, timeout)
        try:
            await js.object_store(name)
        except js_errors.BucketNotFoundError as error:
            if not create:
                raise BucketNotFound(f"there is no bucket {name}", bucket=name) from error
            await js.create_object_store(
                name,
                ttl=ttl.total_seconds() if ttl is not None else None,
                max_bytes=max_bytes,
                storage=StorageType(storage),
                replicas=replicas,
            )
    return ObjectStore(connection, api, name, timeout)


async def _chunked(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut into parts of equal size."""
    if isinstance(data, bytes):
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]
        return
    waiting = bytearray()
    async for piece in data:
        waiting += piece
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)


async def _ended(storing: asyncio.Future[None]) -> None:
    """Wait to the end, also when cancelled: what is on its way would be stored after a purge."""
    try:
        await asyncio.shield(storing)
    except asyncio.CancelledError:
        await _finish(storing)
        raise


async def _finish(work: Any) -> None:
    """Do it even though the caller is cancelled; a fault of the broker is not worth a word."""

    async def quietly() -> None:
        try:
            await work
        except (BrokerUnavailable, MessageBusError):
            return

    task = asyncio.get_running_loop().create_task(quietly())
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue


def _info(found: dict[str, Any]) -> ObjectInfo:
    try:
        modified = datetime.fromisoformat(str(found.get("mtime")))
    except ValueError:
        modified = None
    return ObjectInfo(
        name=str(found["name"]),
        size=int(found["size"]),
        chunks=int(found["chunks"]),
        digest=str(found["digest"]),
        modified=modified,
    )
