"""Keyset cursors: signed positions in one query's order."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from common.db.core._check import CheckedQuery
from common.db.core._entity import EntityInfo, Row
from common.db.core._errors import InvalidCursorError
from common.db.core._kind import decode, encode
from common.db.core._query import Predicate
from common.db.core._select import Scope, Seek
from common.errors import ValidationError

Cursor: TypeAlias = str
"""A position, as opaque text that is safe in URLs. Hand it back as it came."""

MAX_CURSOR_LENGTH: Final = 4_096
MAX_CURSOR_KEYS: Final = 8
"""Most signing keys that are tried; more are never needed to rotate."""

_FORMAT: Final = 1
_DOMAIN: Final = b"common.db.core cursor\0"
_MAC: Final = hashlib.sha256().digest_size
_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class CursorCodec:
    """Writes and reads cursors.

    A cursor holds the format's version, a fingerprint of the query (entity, tenant, condition,
    order) and the position's keys, signed with HMAC-SHA-256 (RFC 2104). It is signed, not
    encrypted: its holder can read the sort keys of the row at the position, which they were
    shown anyway.

    Args:
        keys: Secrets: the first signs, all verify. Without any, a random one is made, and then
            cursors end with the process and are not valid in another.
        max_bytes: Most bytes that one value may take.
    """

    __slots__ = ("_keys", "_last", "_max_bytes")

    def __init__(self, keys: Sequence[bytes] = (), *, max_bytes: int = 1 << 20) -> None:
        self._keys = tuple(keys) or (secrets.token_bytes(32),)
        self._max_bytes = max_bytes
        self._last: tuple[EntityInfo[Any], CheckedQuery, Scope, str] | None = None

    def write(self, info: EntityInfo[Any], query: CheckedQuery, scope: Scope, row: Row) -> Cursor:
        """Return the cursor that stands at ``row``.

        Raises:
            ValidationError: The sort keys are too large for a cursor.
        """
        keys = [
            encode(info.field(order.field).kind, row[info.index(order.field)])
            for order in query.order
        ]
        payload = _json([_FORMAT, self._fingerprint(info, query, scope), keys]).encode()
        raw = self._sign(payload, self._keys[0]) + payload
        cursor = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        if len(cursor) > MAX_CURSOR_LENGTH:
            raise ValidationError(
                "the values sorted by are too large for a cursor: sort by shorter fields, or use "
                "find_page()",
                field="order_by",
            )
        return cursor

    def read(
        self, info: EntityInfo[Any], query: CheckedQuery, scope: Scope, cursor: object, *, name: str
    ) -> Seek:
        """Return the position at which a cursor stands.

        Args:
            info: The entity asked for.
            query: The query, which must be the one that the cursor was made for.
            scope: The repository's scope, likewise.
            cursor: What the caller gave.
            name: The parameter's name, for the message.

        Raises:
            InvalidCursorError: The cursor is malformed, tampered with, or of another query.
        """
        payload = self._verified(cursor, name)
        try:
            version, fingerprint, texts = json.loads(payload)
        except (ValueError, TypeError, RecursionError):
            raise _invalid(name, "format", "is malformed") from None
        if version != _FORMAT:
            raise _invalid(name, "format", "has a format that is not known here")
        if fingerprint != self._fingerprint(info, query, scope):
            raise _invalid(name, "query", "belongs to another query")
        if not isinstance(texts, list) or not all(isinstance(t, str | None) for t in texts):
            raise _invalid(name, "format", "is malformed")
        found = [info.field(order.field) for order in query.order]
        try:
            keys = tuple(
                decode(each.kind, text, self._max_bytes)
                for each, text in zip(found, texts, strict=True)
            )
        except (ValueError, TypeError):
            raise _invalid(name, "format", "is malformed") from None
        return Seek(query.order, keys, tuple(each.nullable for each in found))

    def _fingerprint(self, info: EntityInfo[Any], query: CheckedQuery, scope: Scope) -> str:
        # A page asks for that of one query up to three times in a row.
        last = self._last
        if last and last[0] is info and last[1] is query and last[2] is scope:
            return last[3]
        fingerprint = _fingerprint(info, query, scope)
        self._last = (info, query, scope, fingerprint)
        return fingerprint

    def _verified(self, cursor: object, name: str) -> bytes:
        if not isinstance(cursor, str) or not 0 < len(cursor) <= MAX_CURSOR_LENGTH:
            raise _invalid(name, "format", "is malformed")
        try:
            given = cursor.encode("ascii")
            raw = base64.b64decode(given + b"=" * (-len(given) % 4), b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            raise _invalid(name, "format", "is malformed") from None
        if base64.urlsafe_b64encode(raw).rstrip(b"=") != given:  # one spelling only
            raise _invalid(name, "format", "is malformed")
        mac, payload = raw[:_MAC], raw[_MAC:]
        matches = [hmac.compare_digest(mac, self._sign(payload, key)) for key in self._keys]
        if not any(matches):
            raise _invalid(name, "signature", "was not made here, or was changed")
        return payload

    @staticmethod
    def _sign(payload: bytes, key: bytes) -> bytes:
        return hmac.digest(key, _DOMAIN + payload, "sha256")


def _invalid(name: str, reason: str, why: str) -> InvalidCursorError:
    return InvalidCursorError(
        f"the cursor {why}: start again from the first page", field=name, reason=reason
    )


def _fingerprint(info: EntityInfo[Any], query: CheckedQuery, scope: Scope) -> str:
    tenant = [[name, encode(info.field(name).kind, value)] for name, value in scope.tenant]
    order = [[each.field, each.descending, each.nulls] for each in query.order]
    described = [info.table, tenant, _describe(info, query.where), order]
    return hashlib.sha256(_json(described).encode()).hexdigest()[:32]


def _describe(info: EntityInfo[Any], node: object) -> object:
    """Spell a node so that different nodes never look alike."""
    if not isinstance(node, Predicate):
        return node
    described: list[object] = [type(node).__name__]
    name = getattr(node, "field", None)
    kind = None if name is None else info.field(name).kind
    for attribute in node.__match_args__:
        value = getattr(node, attribute)
        if isinstance(value, tuple):
            parts = [
                _describe(info, part) if kind is None else encode(kind, part) for part in value
            ]
            # Their order means nothing, and that of a set differs from process to process.
            described.append(sorted(parts, key=_json))
        elif kind is not None and attribute != "field":
            described.append(encode(kind, value))
        else:
            described.append(_describe(info, value))
    return described
