"""Who this service says it is."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.clients._checks import fits
from common.clients._headers import OURS
from common.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

_SECRET = re.compile(r"[\x21-\x7e]{1,8192}")  # what fits into a header, without spaces
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A service key, sent in a header with every request; never shown by ``repr``.

    Args:
        key: As it was issued, such as ``id.secret``.
        header: The header's name.

    Raises:
        ValueError: If one of them cannot stand in a header. The message does not show the key.
    """

    key: str = field(repr=False)
    header: str = "X-API-Key"

    def __post_init__(self) -> None:
        _refuse_bad("key", self.key)
        if not fits(_NAME, self.header) or self.header.lower() in OURS:
            raise ValueError(f"header={self.header!r} cannot be used: give one like 'X-API-Key'")

    async def header_field(self) -> tuple[str, str]:
        """Return the header's name and value."""
        return self.header, self.key


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A bearer token (RFC 6750), or a function that returns a fresh one for each try.

    Args:
        token: The token, or a function without arguments. It is called for every try, within
            the time of the call: let it keep the token until it expires. A function that has to
            wait for the token must be async.

    Raises:
        ValueError: If the token cannot stand in a header. The message does not show it.
    """

    token: str | Callable[[], str | Awaitable[str]] = field(repr=False)

    def __post_init__(self) -> None:
        if not callable(self.token):
            _refuse_bad("token", self.token)

    async def header_field(self) -> tuple[str, str]:
        """Return the header's name and value.

        Raises:
            InternalError: If the function returned what cannot stand in a header.
        """
        token = self.token
        if callable(token):
            given = token()
            token = await given if isinstance(given, Awaitable) else given
            if not fits(_SECRET, token):
                raise InternalError("the function given to ServiceToken returned no usable token")
        return "Authorization", f"Bearer {token}"


def _refuse_bad(field_name: str, secret: object) -> None:
    if not fits(_SECRET, secret):
        raise ValueError(
            f"{field_name}: give text of visible ASCII characters without spaces, at most 8192"
        )
