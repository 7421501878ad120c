"""Field types the messages share. Patterns and bounds run inside pydantic's core."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field
from pydantic_core import PydanticCustomError

from common.domain._problems import OWN
from common.domain._sensitive import Sensitive

Identifier = Annotated[str, Field(min_length=1, max_length=255)]
"""An id given by some system: 1 to 255 characters."""

Label = Annotated[str, Field(max_length=255)]
"""A name, kind or state: at most 255 characters."""

Text = Annotated[str, Field(max_length=10_000)]
"""Prose, such as an error message: at most 10,000 characters."""

Count = Annotated[int, Field(ge=0)]
"""How many, or how long in whole units."""

Seconds = Annotated[float, Field(ge=0)]
"""A duration in seconds."""

PhoneNumber = Annotated[str, Field(pattern=r"^\+[1-9][0-9]{1,14}$"), Sensitive()]
"""E.164: ``+``, country code, number; at most 15 digits (ITU-T E.164, section 6)."""

EmailAddress = Annotated[
    str, Field(max_length=254, pattern=r"^[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+$"), Sensitive()
]
"""A plausible e-mail address (lengths: RFC 5321, section 4.5.3.1). Only a delivery proves it."""

Token = Annotated[str, Field(min_length=1, max_length=4096), Sensitive()]
"""A secret which grants something to whoever has it."""

WebUrl = Annotated[str, Field(max_length=2048, pattern=r"^https?://\S+$"), Sensitive()]
"""An http or https address. Sensitive: its query often carries a key."""

CronExpression = Annotated[
    str, Field(max_length=255, pattern=r"^[0-9A-Za-z*/,\-?#]+( +[0-9A-Za-z*/,\-?#]+){4,5}$")
]
"""Five fields (POSIX crontab) or six, with seconds. Ranges are the scheduler's to judge."""


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError(OWN, "lies outside of the years 1 to 9999 in UTC") from None


UtcDatetime = Annotated[AwareDatetime, AfterValidator(_utc)]
"""A point in time with an offset, converted to UTC. Times without an offset are refused."""


def _zone(value: str) -> str:
    if value == "UTC":
        return value
    # "localtime", "posix/UTC", "right/UTC": files of this machine, not names of the database.
    if not value[:1].isupper():
        raise _no_zone()
    from zoneinfo import ZoneInfo, available_timezones  # noqa: PLC0415 - rarely needed

    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError):
        # A slim container may have no time zone database at all: then only the form is judged.
        if available_timezones() or not re.fullmatch(
            r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*", value
        ):
            raise _no_zone() from None
    return value


def _no_zone() -> PydanticCustomError:
    return PydanticCustomError(OWN, "is no IANA time zone: use a name such as Europe/Berlin")


TimeZoneName = Annotated[str, Field(max_length=64), AfterValidator(_zone)]
"""A name of the IANA time zone database (RFC 6557), such as ``Europe/Berlin``."""
