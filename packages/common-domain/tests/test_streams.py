# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false

import pytest

from common.domain import (
    PublishNotAllowedError,
    Stream,
    Streams,
    UnknownStreamError,
    registry,
    streams,
)
from common.domain.calls import CallCompleted
from common.domain.merchant import MerchantCreated
from common.domain.notification import SendEmail


def matches(pattern: str, subject: str) -> bool:
    """NATS: ``>`` stands for one or more words at the end."""
    words, tail = subject.split("."), pattern.removesuffix(".>").split(".")
    return len(words) > len(tail) and words[: len(tail)] == tail


def test_every_declared_type_belongs_to_exactly_one_stream():
    for cls in registry.all():
        if not cls.__module__.startswith("common.domain."):
            continue
        subject = cls.__message__.subject
        takers = [s for s in streams if any(matches(pattern, subject) for pattern in s.subjects)]
        assert takers == [streams.stream_for(cls)], subject


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("order.updated", "CREDIT"),
        ("account.created", "CREDIT"),
        ("subscription.renewed", "CREDIT"),
        ("merchant.created", "MERCHANT"),
        ("notification.email.sent", "NOTIFICATION"),
        ("call.completed", "CALL"),
        ("memory.updated", "MEMORY"),
        ("transcript.processed", "TRANSCRIPT"),
        ("ai.model_called", "AI_PROCESSING"),
        ("webhook.received", "WEBHOOKS"),
        ("evt.scheduler.schedule.created", "SCHEDULER"),
    ],
)
def test_types_go_to_their_streams(kind, name):
    assert streams.stream_for(kind) is streams[name]


def test_a_stream_is_found_from_class_message_type_and_subject():
    event = MerchantCreated(merchant_id="00000000-0000-0000-0000-000000000001")
    for form in (MerchantCreated, event, "merchant.created", "evt.merchant.created"):
        assert streams.stream_for(form).name == "MERCHANT"


@pytest.mark.parametrize("kind", ["unknown.thing", "callx.completed", "evt.callx.completed"])
def test_a_type_without_stream_is_an_error_that_says_what_to_do(kind):
    with pytest.raises(UnknownStreamError, match="give a stream the prefix"):
        streams.stream_for(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "order",
        "order.",
        "order..x",
        "order.*",
        "order.>",
        "evt.call",
        "evt.",
        "Order.x",
        "o.x\n",
    ],
)
def test_what_is_no_type_is_an_error_that_says_so(kind):
    with pytest.raises(UnknownStreamError, match="is no message type: give lower-case words"):
        streams.stream_for(kind)


def test_an_event_leaves_only_from_the_service_of_its_stream():
    assert streams.may_publish("merchant-service", MerchantCreated)
    assert not streams.may_publish("catalog-service", "billing.invoice_paid")
    assert not streams.may_publish("nobody", MerchantCreated)
    with pytest.raises(
        PublishNotAllowedError, match="belongs to CALL: catalog-service publishes only to CATALOG"
    ):
        streams.check_publish("catalog-service", CallCompleted)
    with pytest.raises(PublishNotAllowedError, match=r"did you mean merchant-service\?"):
        streams.check_publish("merchant-servic", MerchantCreated)


def test_a_command_may_be_sent_by_every_known_service():
    assert streams.may_publish("credit-service", SendEmail)
    assert streams.may_publish("credit-service", "cmd.notification.send_email")
    assert not streams.may_publish("nobody", SendEmail)


def test_extended_adds_streams_and_services_and_leaves_the_original():
    mine = streams.extended(
        [Stream("FLEET", ("fleet",))], services={"calls-api": ["CALL", "FLEET"]}
    )
    assert mine.check_publish("calls-api", CallCompleted).name == "CALL"
    assert mine.may_publish("calls-api", "fleet.moved")
    assert "calls-api" not in streams.services
    assert len(mine) == len(streams) + 1


@pytest.mark.parametrize(
    ("prefix", "other"), [("call", "call"), ("call.video", "call"), ("call", "call.video")]
)
def test_overlapping_streams_are_refused(prefix, other):
    with pytest.raises(ValueError, match="overlap"):
        Streams([Stream("A", (prefix,)), Stream("B", (other,))])


def test_prefixes_that_only_look_alike_do_not_overlap():
    apart = Streams([Stream("A", ("call.video",)), Stream("B", ("call.audio", "calls"))])
    assert apart.stream_for("call.audio.ended").name == "B"
    with pytest.raises(UnknownStreamError):
        apart.stream_for("call.ended")


def test_wrong_declarations_are_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="two streams are named A"):
        Streams([Stream("A", ("a",)), Stream("A", ("b",))])
    with pytest.raises(ValueError, match=r"did you mean CALL\?"):
        streams.extended(services={"x": ["CALLS"]})
    with pytest.raises(TypeError, match="a list of streams"):
        streams.extended(services={"x": "CALL"})
    for prefix in ("", "a..b", "a.>", "*", "a b"):
        with pytest.raises(ValueError, match="must be words"):
            Streams([Stream("A", (prefix,))])
    with pytest.raises(UnknownStreamError, match="did you mean CALL"):
        streams["CAL"]
