from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common.domain import (
    CronExpression,
    EmailAddress,
    PhoneNumber,
    TimeZoneName,
    UtcDatetime,
    WebUrl,
)


def accepts(annotation: Any, value: object) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("good", ["+4930901820", "+12025550123", "+123456789012345", "+49"])
def test_e164_numbers_are_accepted(good):
    assert accepts(PhoneNumber, good)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "+",
        "4930901820",
        "+0123",
        "+1234567890123456",
        "+49 30",
        "+49-30",
        "+493090182\n",
        "+\uff14\uff19",
        "+٤٩",
        "00493090",
    ],
)
def test_other_numbers_are_refused(bad):
    assert not accepts(PhoneNumber, bad)


@pytest.mark.parametrize("good", ["a@b.de", "first.last+tag@sub.example.com", "ü@bücher.example"])
def test_plausible_addresses_are_accepted(good):
    assert accepts(EmailAddress, good)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "a",
        "a@",
        "@b.de",
        "a@b",
        "a@b..de",
        "a@b.",
        "a b@c.de",
        "a@b.de\n",
        "a@b.de\r\nBcc: x@y.zz",
        "a@@b.de",
        "x" * 65 + "@b.de",
        "a@" + "b" * 250 + ".de",
    ],
)
def test_implausible_addresses_are_refused(bad):
    assert not accepts(EmailAddress, bad)


@pytest.mark.parametrize(
    "good", ["* * * * *", "*/5 0-12 1,15 * MON-FRI", "0 0 12 ? * 2#1", "0 0 L * *"]
)
def test_cron_expressions_of_five_or_six_fields_are_accepted(good):
    assert accepts(CronExpression, good)


@pytest.mark.parametrize(
    "bad", ["", "* * * *", "* * * * * * *", "@daily", "* * * * *\n", "a;b * * * *"]
)
def test_other_cron_expressions_are_refused(bad):
    assert not accepts(CronExpression, bad)


@pytest.mark.parametrize("good", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"])
def test_iana_zones_are_accepted(good):
    assert accepts(TimeZoneName, good)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "Mars/Olympus",
        "../../etc/passwd",
        "/etc/passwd",
        "America",
        "x" * 65,
        "UTC\0",
        "a/../UTC",
        ".",
        "localtime",
        "posixrules",
        "posix/UTC",
        "right/UTC",
    ],
)
def test_other_zones_are_refused(bad):
    assert not accepts(TimeZoneName, bad)


def test_without_a_time_zone_database_only_the_form_is_judged(monkeypatch):
    import zoneinfo

    def missing(key: str) -> ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(key)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    assert accepts(TimeZoneName, "Europe/Berlin")
    assert not accepts(TimeZoneName, "../etc")


@given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
def test_times_become_utc_or_are_refused(value):
    try:
        expected = value.astimezone(UTC)
    except OverflowError:
        assert not accepts(UtcDatetime, value)
        return
    found = TypeAdapter(UtcDatetime).validate_python(value)
    assert found == expected
    assert found.tzinfo is UTC


def test_times_without_offset_are_refused():
    assert not accepts(UtcDatetime, datetime(2026, 1, 1))  # noqa: DTZ001 - what is tested
    assert not accepts(UtcDatetime, "2026-01-01T00:00:00")


def test_times_that_leave_the_calendar_in_utc_are_refused():
    assert not accepts(UtcDatetime, datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))


@pytest.mark.parametrize(
    "bad", ["", "ftp://x", "javascript:alert(1)", "https://a b", "https://" + "x" * 2048]
)
def test_addresses_other_than_http_are_refused(bad):
    assert accepts(WebUrl, "https://hooks.example/a?key=1")
    assert not accepts(WebUrl, bad)
