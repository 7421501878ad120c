"""Keys by which the second of two equal requests is recognised."""

import re
from base64 import b32encode
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar

from common.domain._message import Message

_UNSAFE = re.compile(r"[^A-Z0-9_]")
_WIDTHS = (20, 24, 36, 16)  # of system, operation, identifier (fits a UUID) and extra

M = TypeVar("M", bound=Message)


class Keyed(NamedTuple, Generic[M]):
    """A message and the key under which it is to be sent once.

    ``command, key = email_command(...)``, then ``bus.send(command, idempotency_key=key)``.
    """

    message: M
    idempotency_key: str


def idempotency_key(system: str, operation: str, identifier: str, extra: str | None = None) -> str:
    """Return a key that is the same for the same inputs and different for different ones.

    The readable part is upper-cased, with ``_`` for ``-``, ``.`` and whatever else is neither
    letter, digit nor ``_``, and each input is cut to 20, 24, 36 and 16 characters. That loses
    information, so a digest of the exact inputs follows (128 bits of BLAKE2b over each input
    with its length, so that no separator can be forged). At most 126 ASCII characters, fit for
    a header or a message id.

    The inputs are readable in the key: do not put personal data into them.

    Args:
        system: Who asks, such as ``"credit-service"``.
        operation: What for, such as ``"order.refund"``.
        identifier: Of the thing concerned.
        extra: Tells requests about the same thing apart, such as an attempt or an hour.

    Raises:
        TypeError: An input is not text.

    Example:
        >>> idempotency_key("credit-service", "order.refund", "o-17")
        'CREDIT_SERVICE:ORDER_REFUND:O_17:MNEJJ3MYMN3BGINB7VAGUTV7XA'
        >>> idempotency_key("credit-service", "order.refund", "o.17")[:33]
        'CREDIT_SERVICE:ORDER_REFUND:O_17:'
    """
    parts = (
        [system, operation, identifier] if extra is None else [system, operation, identifier, extra]
    )
    digest = blake2b(digest_size=16)
    readable: list[str] = []
    for part, width in zip(parts, _WIDTHS, strict=False):
        if not isinstance(part, str):
            raise TypeError(f"give text, such as str(id), not {type(part).__name__}")
        # JSON lets text hold half a surrogate pair, which plain UTF-8 refuses.
        exact = part.encode("utf-8", "surrogatepass")
        digest.update(len(exact).to_bytes(8, "big") + exact)
        readable.append(_UNSAFE.sub("_", part[:width].upper())[:width])
    return ":".join([*readable, b32encode(digest.digest()).decode().rstrip("=")])
