# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.notification import (
    InvalidRecipientError,
    Recipient,
    bulk_email_command,
    email_command,
)

AT = datetime(2026, 11, 22, 16, 30, tzinfo=UTC)


def recipient(number: int = 1, email: str = "owner@shop.example", **content: object) -> Recipient:
    return Recipient(
        merchant_id=UUID(int=number),
        merchant_domain="shop.example",
        email=email,
        unsubscribe_token="t-secret",
        dynamic_content=content,
    )


def key(
    notification_type: str = "low_credit", to: Recipient | None = None, at: datetime = AT
) -> str:
    return email_command(notification_type, to or recipient(), at=at).idempotency_key


@given(st.integers(0, 59), st.integers(0, 59), st.integers(-23, 23))
def test_within_one_utc_hour_the_key_is_the_same_in_every_zone(minute, second, offset):
    zone = timezone(timedelta(hours=offset, minutes=30))
    assert key(at=AT.replace(minute=minute, second=second).astimezone(zone)) == key()


@given(st.integers(-1000, 1000).filter(bool))
def test_in_another_hour_the_key_is_another(hours):
    assert key(at=AT + timedelta(hours=hours)) != key()


def test_recipient_and_type_make_the_key_and_content_does_not():
    assert key(to=recipient(plan="gold")) == key()
    assert key(to=recipient(email="OWNER@shop.example")) == key()
    others = {
        key(),
        key("welcome"),
        key(to=recipient(2)),
        key(to=recipient(email="b@shop.example")),
    }
    assert len(others) == 4


def test_a_key_shows_neither_address_nor_token():
    for shown in (key(), bulk_email_command("x", [recipient()], at=AT).idempotency_key):
        assert "OWNER" not in shown.upper()
        assert "SECRET" not in shown.upper()


def test_the_order_of_a_bulk_does_not_matter_but_its_members_do():
    one, two, three = recipient(1), recipient(2), recipient(3)

    def bulk(*to: Recipient) -> str:
        return bulk_email_command("news", to, at=AT).idempotency_key

    assert bulk(one, two) == bulk(two, one) == bulk(one, two, one)
    assert len({bulk(one), bulk(one, two), bulk(one, three), bulk(), key("news", one)}) == 5


def test_the_commands_carry_what_was_given():
    assert email_command("news", recipient()).message.recipient == recipient()
    assert bulk_email_command("news", [recipient()]).message.recipients == [recipient()]


def test_a_time_without_offset_is_refused():
    with pytest.raises(ValueError, match="needs an offset"):
        key(at=AT.replace(tzinfo=None))

    class Vague(tzinfo):
        def utcoffset(self, dt: datetime | None) -> None:
            return None

    with pytest.raises(ValueError, match="needs an offset"):
        key(at=AT.replace(tzinfo=Vague()))


@pytest.mark.parametrize(
    ("edge", "hours"),
    [(datetime(1, 1, 1), 1), (datetime(9999, 12, 31, 23), -1)],  # noqa: DTZ001 - given below
)
def test_a_time_that_leaves_the_calendar_in_utc_is_refused(edge, hours):
    with pytest.raises(ValueError, match="years 1 to 9999"):
        key(at=edge.replace(tzinfo=timezone(timedelta(hours=hours))))


def test_an_invalid_recipient_does_not_show_in_the_error():
    error = InvalidRecipientError("Bounced", recipient="owner@shop.example", reason="bounce")
    assert error.recipient == "owner@shop.example"
    for shown in (str(error), repr(error), str(error.to_dict())):
        assert "owner" not in shown
