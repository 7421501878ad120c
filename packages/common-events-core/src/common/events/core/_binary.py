"""The headers of CloudEvents' binary mode: NATS and HTTP protocol bindings, section 3.1."""

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes

PREFIX = "ce-"

# Percent-encoded are space, double quote, percent and whatever is not printable ASCII.
_SAFE = "".join(map(chr, range(0x21, 0x7F))).translate({0x22: None, 0x25: None})


def encode_headers(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for the attributes.

    Example:
        >>> encode_headers({"subject": "50 €"})
        {'ce-subject': '50%20%E2%82%AC'}
    """
    return {f"{PREFIX}{name}": quote(value, safe=_SAFE) for name, value in attributes.items()}


def decode_headers(headers: Mapping[str, str]) -> dict[str, object]:
    """Return the attributes in the headers, whose names may be in any case; none: not this mode.

    ``Content-Type`` is taken for ``datacontenttype``, as the HTTP and Kafka bindings have it.

    Raises:
        ValueError: A value is not UTF-8 once decoded. (Do not show its text: it quotes the data.)
    """
    attributes: dict[str, object] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if lowered.startswith(PREFIX):
            attributes[lowered[len(PREFIX) :]] = unquote_to_bytes(_unquoted(value)).decode()
        elif lowered == "content-type":
            attributes.setdefault("datacontenttype", value)
    return attributes if "specversion" in attributes else {}


def _unquoted(value: str) -> str:
    """Undo the double quotes that older versions of the bindings asked for (RFC 7230, 3.2.6)."""
    value = value.strip(" \t")
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
