"""Versions of rows, for optimistic concurrency."""

from enum import Enum
from typing import Final, Literal, TypeAlias


class AnyVersion(Enum):
    """The type of `ANY`."""

    ANY = "any"

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = AnyVersion.ANY
"""Written as ``expected=ANY``: overwrite whatever version is stored."""

Version: TypeAlias = int | str
"""A version: an int counted up from 1, or an etag."""

Expected: TypeAlias = Version | Literal[AnyVersion.ANY]
"""What a write expects to find."""
