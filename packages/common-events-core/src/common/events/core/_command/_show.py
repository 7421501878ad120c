"""``common-events dlq show``: one dead letter, its sensitive fields masked."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from common.domain import MASK, Message, Registry, UnknownTypeError, masked, sensitive_fields
from common.errors import ValidationError
from common.events.core._binary import PREFIX
from common.events.core._command._letters import Filter, Letter, pages
from common.events.core._command._say import printable, say
from common.events.core._decoder import Decoder
from common.events.core._envelope import Envelope
from common.events.core._errors import UndecodableMessage
from common.events.core._transport import Transport

_SAFE = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "id", "type", "source", "time", "dataschema", "specversion", "correlationid",
        "causationid", "tenant", "traceparent", "tracestate",
    )
) | {"content-type", "replay-consumer"}  # fmt: skip
"""Headers that are shown; what others hold, nobody knows."""


async def show(
    transport: Transport, sequence: int, registries: Sequence[Registry], *, raw: bool
) -> int:
    """Print a dead letter.

    Args:
        transport: The broker.
        sequence: Its position in the stream of dead letters.
        registries: Where the classes of messages are found.
        raw: Print headers and body as they are, and nothing else.

    Raises:
        ValidationError: There is none of this number.
    """
    async with transport:
        wanted = Filter(ranges=[(sequence, sequence)])
        found = [letter async for page in pages(transport, wanted) for letter in page]
    if not found:
        raise ValidationError(f"there is no dead letter {sequence}; see common-events dlq list")
    if raw:
        _raw(found[0])
        return 0
    _own(found[0])
    _decoded(found[0], registries)
    return 0


def _raw(letter: Letter) -> None:
    for name, value in letter.message.headers.items():
        say(f"{name}: {value}")
    say()
    body = letter.message.data.decode("utf-8", "backslashreplace")
    sys.stdout.write((printable(body) if sys.stdout.isatty() else body) + "\n")


def _own(letter: Letter) -> None:
    message = letter.message
    say(f"dead letter {letter.sequence} of {message.stream}")
    _pairs(
        {
            "subject": letter.subject,
            "stored": message.timestamp.isoformat(),
            "consumer": letter.consumer or "?",
            "reason": f"{letter.reason} after attempt {letter.says('attempts')}",
            "error": letter.says("error"),
            "original": f"{letter.says('stream')}/{letter.says('sequence')}",
        }
    )
    if headers := letter.headers:
        say("headers")
        _pairs({name: value if name.lower() in _SAFE else MASK for name, value in headers.items()})


def _decoded(letter: Letter, registries: Sequence[Registry]) -> None:
    size = f"{len(letter.message.data):,} bytes"
    try:
        envelope, message = _decode(letter, registries)
    except (UnknownTypeError, UndecodableMessage) as error:
        say(f"body of {size}: {error}")
        say("  it is not shown, for it may be sensitive; --raw shows it")
        return
    say("envelope")
    _pairs(_attributes(envelope, message))
    info = message.__message__
    sent = "" if envelope.version == info.version else f", sent as version {envelope.version}"
    say(f"data: {info.type} version {info.version}{sent}, {size}")
    data = json.dumps(masked(message), indent=2, ensure_ascii=False)
    for line in data.splitlines():
        say(f"  {line}")


def _decode(letter: Letter, registries: Sequence[Registry]) -> tuple[Envelope, Message]:
    unknown: UnknownTypeError | None = None
    for registry in registries:
        try:
            cls = registry.by_subject(letter.subject)
        except UnknownTypeError as error:
            unknown = unknown or error
            continue
        decoder = Decoder([cls], registry=registry)
        return decoder.decode(letter.subject, letter.headers, letter.message.data)
    raise unknown or UnknownTypeError("no class is declared: name --module or --app")


def _attributes(envelope: Envelope, message: Message) -> dict[str, Any]:
    hidden = sensitive_fields(type(message))
    secret = any(path == key or key.startswith(f"{path}.") for key in message.__message__.key
                 for path in hidden)  # fmt: skip
    found = {
        "id": envelope.id,
        "source": envelope.source,
        "key": MASK if secret and envelope.subject is not None else envelope.subject,
        "time": envelope.time,
        "correlation": envelope.correlation_id,
        "causation": envelope.causation_id,
        "tenant": envelope.tenant,
        "traceparent": envelope.traceparent,
        **dict.fromkeys(envelope.extensions, MASK),
    }
    return {name: value for name, value in found.items() if value is not None}


def _pairs(pairs: dict[str, Any]) -> None:
    width = max((len(printable(name)) for name in pairs), default=0)
    for name, value in pairs.items():
        say(f"  {name.ljust(width)}  {value}")
