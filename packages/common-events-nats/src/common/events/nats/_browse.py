"""Reading stored messages without consuming them, and deleting one (STREAM.MSG)."""

import asyncio
import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from common.errors import MessageBusError
from common.events.core._transport import StoredMessage
from common.events.nats._api import Api, check_stream_name
from common.events.nats._errors import ErrCode, JetStreamError
from common.events.nats._headers import parse_headers

_AT_ONCE = 32
_NOT_THERE = frozenset(
    {ErrCode.MESSAGE_NOT_FOUND, ErrCode.SEQUENCE_NOT_FOUND, ErrCode.MESSAGE_DELETE_FAILED}
)


async def browse(
    api: Api, stream: str, *, subject: str | None, after: int, limit: int
) -> Sequence[StoredMessage]:
    """Return stored messages: see `Transport.browse`."""
    check_stream_name(stream)
    found: list[StoredMessage] = []
    width = 1
    while len(found) < limit:
        width = min(width, limit - len(found))
        # With a subject, that is the first message at or after `seq` which matches it. Where
        # messages lie close together, several are asked for at once; where not, that would only
        # find the same one several times.
        queries = (
            {"seq": after + each, "next_by_subj": subject or ">"} for each in range(1, width + 1)
        )
        answers = await asyncio.gather(*(read(api, stream, query) for query in queries))
        there = {each.sequence: each for each in answers if each is not None}
        if not there:
            break
        found += (there[sequence] for sequence in sorted(there))
        after = max(there)
        width = min(2 * width, _AT_ONCE) if len(there) == width else 1
    return found


async def read(api: Api, stream: str, query: Mapping[str, object]) -> StoredMessage | None:
    """Return the message a query of ``STREAM.MSG.GET`` finds, such as ``{"seq": 7}``.

    Raises:
        MissingStream: There is no such stream.
        MessageBusError: As of any request.
    """
    try:
        answer = await api.request(f"STREAM.MSG.GET.{stream}", query)
    except JetStreamError as error:
        if error.err_code in _NOT_THERE:
            return None
        raise
    return _stored(stream, answer.get("message"))


async def remove(api: Api, stream: str, sequence: int) -> bool:
    """Delete a stored message: see `Transport.remove`."""
    check_stream_name(stream)
    # Without no_erase its bytes are overwritten, at the price of rewriting a block.
    query = {"seq": sequence, "no_erase": True}
    try:
        answer = await api.request(f"STREAM.MSG.DELETE.{stream}", query)
    except JetStreamError as error:
        if error.err_code in _NOT_THERE:
            return False
        raise
    return answer.get("success") is True


def _stored(stream: str, message: Any) -> StoredMessage:
    try:
        headers = message.get("hdrs")
        return StoredMessage(
            stream=stream,
            sequence=message["seq"],
            subject=message["subject"],
            data=base64.b64decode(message.get("data") or ""),
            timestamp=parse_time(message["time"]),
            headers=parse_headers(base64.b64decode(headers)) if headers else {},
        )
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise MessageBusError(f"stream {stream}: a stored message cannot be read") from error


def parse_time(text: str) -> datetime:
    """Return a time of the server (RFC 3339 with nanoseconds).

    Example:
        >>> parse_time("2026-01-02T03:04:05.123456789Z")
        datetime.datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=datetime.timezone.utc)
    """
    whole, _, rest = text.partition(".")
    if not rest:
        return datetime.fromisoformat(text).astimezone(UTC)
    digits = len(rest) - len(rest.lstrip("0123456789"))
    fraction, zone = rest[:digits][:6].ljust(6, "0"), rest[digits:]
    return datetime.fromisoformat(f"{whole}.{fraction}{zone}").astimezone(UTC)
