"""Message headers and the command that carries them, as on the wire (ADR-4 of NATS)."""

import re
from collections.abc import Mapping

VERSION = b"NATS/1.0"
_END = b"\r\n"


def parse_headers(raw: bytes | None) -> dict[str, str]:
    r"""Return headers by name; the last of several with one name. Never raises.

    Example:
        >>> parse_headers(b"NATS/1.0\r\nNats-Msg-Id: 17\r\n\r\n")
        {'Nats-Msg-Id': '17'}
    """
    found: dict[str, str] = {}
    if raw is None:
        return found
    for line in raw.split(_END)[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode("utf-8", "replace")] = value.strip().decode(
                "utf-8", "replace"
            )
    return found


def parse_status(raw: bytes | None) -> tuple[int, str]:
    r"""Return the status of a control message and its text; ``(0, "")`` for any other message.

    Example:
        >>> parse_status(b"NATS/1.0 409 Consumer Deleted\r\n\r\n")
        (409, 'Consumer Deleted')
        >>> parse_status(b"NATS/1.0\r\nA: b\r\n\r\n")
        (0, '')
    """
    if raw is None or raw[8:9] != b" ":
        return 0, ""
    line = raw[9 : raw.find(_END)]
    code, _, text = line.strip().partition(b" ")
    if not code.isdigit():
        return 0, ""
    return int(code), text.strip().decode("utf-8", "replace")


_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of RFC 9110, section 5.6.2
_BREAKS = {ord(each): " " for each in "\r\n\0"}  # they would end the line: another header, or worse


def encode_headers(headers: Mapping[str, str]) -> bytes:
    r"""Return the lines of headers, without the version line and the empty one at the end.

    Line breaks in values become spaces. Names that start with ``Nats-`` are orders to the server
    and left out, so that headers of a message that was received can be sent on.

    Raises:
        ValueError: A name that cannot be a header's.

    Example:
        >>> encode_headers({"A": "b\r\nEvil: yes", "Nats-Rollup": "all"})
        b'A: b  Evil: yes\r\n'
    """
    lines: list[str] = []
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:100]!r} is no name for a header")
        if name[:5].lower() != "nats-":
            lines.append(f"{name}: {value.translate(_BREAKS).strip()}\r\n")
    return "".join(lines).encode("utf-8", "replace")


def command(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bytes:
    """Return a PUB or HPUB with its payload.

    Args:
        subject: Checked by the caller: without spaces and control characters.
        reply: Likewise; may be empty.
        headers: Encoded, or empty.
        data: The body.
    """
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(data), data)
    size = len(headers)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, size, size + len(data), headers, data)
