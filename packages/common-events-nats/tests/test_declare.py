import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from nats_settings import settings

from common.events.core._declarations import Change, StreamSpec
from common.events.core._errors import DeclarationConflict, MissingStream
from common.events.nats._config import NatsConfig
from common.events.nats._errors import NatsTimeout
from common.events.nats._transport import NatsTransport
from common.testing import NatsServer

ORDERS = StreamSpec(name="ORDER", subjects=("evt.order.>", "cmd.order.>"))


@pytest.fixture
async def transport(config: NatsConfig):
    async with NatsTransport(config) as opened:
        yield opened


async def configuration(transport: NatsTransport, name: str = "ORDER") -> dict[str, Any]:
    return (await transport.api.request(f"STREAM.INFO.{name}"))["config"]


async def test_what_is_missing_is_made_once(transport):
    planned = await transport.plan([ORDERS])
    assert str(planned) == "+ stream ORDER"
    assert not planned.applied
    with pytest.raises(MissingStream):
        await configuration(transport)
    made = await transport.declare([ORDERS], mode="create")
    assert made.applied
    assert made.changes == planned.changes
    assert not await transport.declare([ORDERS], mode="create")
    assert not await transport.declare([ORDERS], mode="verify")
    found = await configuration(transport)
    assert found["subjects"] == ["cmd.order.>", "evt.order.>"]
    assert found["storage"] == "file"


@pytest.mark.parametrize("operation", ["LIST", "CREATE"])
@pytest.mark.parametrize("arrives", [False, True])
async def test_what_a_cluster_in_an_election_does_not_answer_is_asked_again(
    transport, monkeypatch, arrives, operation
):
    """Whether the first request was lost or only its answer."""
    request, lost = transport.connection.request, 0

    async def electing(subject: str, *args: Any, **options: Any):
        nonlocal lost
        if f".STREAM.{operation}" in subject and lost < 2:
            lost += 1
            if arrives:
                await request(subject, *args, **options)
            raise NatsTimeout("no answer")
        return await request(subject, *args, **options)

    monkeypatch.setattr(transport.connection, "request", electing)
    made = await transport.declare([ORDERS], mode="create")
    assert lost == 2
    assert str(made) == "+ stream ORDER"
    assert not await transport.declare([ORDERS], mode="verify")


async def test_a_broker_that_does_not_answer_is_not_asked_for_ever(monkeypatch):
    async with NatsServer() as server, NatsTransport(settings(server.url)) as transport:
        request, asked = transport.connection.request, []

        async def noted(subject: str, *args: Any, **options: Any):
            asked.append(subject)
            return await request(subject, *args, **options)

        monkeypatch.setattr(transport.connection, "request", noted)
        monkeypatch.setattr(transport.api, "_timeout", 0.3)  # not before it is open
        server.pause()
        with pytest.raises(NatsTimeout):
            await transport.declare([ORDERS], mode="create")
        server.resume()
        assert asked == ["$JS.API.STREAM.LIST"] * 3


async def test_off_asks_nothing(config):
    assert not await NatsTransport(config).declare([ORDERS], mode="off")


async def test_what_is_not_owned_stays_as_it_is(transport):
    await transport.api.request(
        "STREAM.CREATE.ORDER",
        {
            "name": "ORDER",
            "subjects": ["evt.order.>"],
            "description": "by hand",
            "max_msgs": 77,
            "max_msg_size": 5_000,
            "discard": "new",
            "metadata": {"team": "b"},
        },
    )
    before = await configuration(transport)
    spec = replace(ORDERS, max_messages_per_subject=50)
    plan = await transport.declare([spec], mode="reconcile")
    assert {change.field for change in plan.changes} >= {"subjects", "max_messages_per_subject"}
    after = await configuration(transport)
    owned = {
        *("subjects", "max_age", "max_msgs_per_subject", "duplicate_window", "allow_rollup_hdrs"),
        *("allow_direct", "deny_purge", "metadata"),
    }
    assert {name: after[name] for name in before if name not in owned} == {
        name: value for name, value in before.items() if name not in owned
    }
    assert after["max_msgs"] == 77
    assert after["metadata"]["team"] == "b"
    assert not await transport.plan([spec])


async def test_a_difference_is_shown_before_and_after(transport):
    await transport.declare([ORDERS], mode="create")
    spec = replace(ORDERS, max_age=timedelta(days=1), max_bytes=1_000_000)
    plan = await transport.plan([spec])
    assert [each.kind for each in plan.changes] == ["update", "update"]
    assert "~ stream ORDER: max_bytes: -1 -> 1000000" in str(plan)
    assert "1 day, 0:00:00" in str(plan)
    for mode in ("verify", "create"):
        with pytest.raises(DeclarationConflict) as caught:
            await transport.declare([spec], mode=mode)
        assert caught.value.differences == str(plan).splitlines()
    await transport.declare([spec], mode="reconcile")
    assert (await configuration(transport))["max_age"] == 86_400 * 10**9


async def test_what_cannot_be_changed_is_refused_before_anything_is_changed(transport):
    await transport.declare([ORDERS], mode="create")
    other = StreamSpec(name="NEW", subjects=("evt.new.>",))
    spec = replace(ORDERS, storage="memory", max_bytes=1_000)
    plan = await transport.plan([other, spec])
    assert "! stream ORDER: storage: file -> memory (cannot be changed)" in str(plan)
    with pytest.raises(DeclarationConflict, match="storage") as caught:
        await transport.declare([other, spec], mode="reconcile")
    assert caught.value.differences == [
        "! stream ORDER: storage: file -> memory (cannot be changed)"
    ]
    with pytest.raises(MissingStream):
        await configuration(transport, "NEW")


@pytest.mark.parametrize("mode", ["verify", "create", "reconcile"])
async def test_overlapping_subjects_are_named(transport, mode):
    await transport.declare([ORDERS], mode="create")
    rival = StreamSpec(name="RIVAL", subjects=("evt.*.placed", "evt.rival.>"))
    with pytest.raises(DeclarationConflict, match=r"evt.order.> is taken by stream ORDER"):
        await transport.declare([rival], mode=mode)
    with pytest.raises(DeclarationConflict, match=r"is taken by stream ONE"):
        await transport.declare(
            [
                StreamSpec(name="ONE", subjects=("a.>",)),
                StreamSpec(name="TWO", subjects=("a.b",)),
            ],
            mode=mode,
        )
    assert "RIVAL" not in str((await transport.api.request("STREAM.NAMES"))["streams"])


async def test_subjects_may_move_from_one_declared_stream_to_another(transport):
    await transport.declare([replace(ORDERS, subjects=("a.>", "b.>"))], mode="create")
    moved = [replace(ORDERS, subjects=("a.>",)), StreamSpec(name="B", subjects=("b.>",))]
    await transport.declare(moved, mode="reconcile")
    assert not await transport.plan(moved)


async def test_message_ids_must_be_remembered_longer_than_a_publish_is_retried(transport):
    short = replace(ORDERS, duplicate_window=timedelta(seconds=5))
    with pytest.raises(DeclarationConflict, match="sent again"):
        await transport.declare([short], mode="create")
    with pytest.raises(MissingStream):
        await configuration(transport)
    await transport.api.request(
        "STREAM.CREATE.ORDER",
        {"name": "ORDER", "subjects": ["evt.order.>"], "duplicate_window": 5 * 10**9},
    )
    unowned = replace(ORDERS, subjects=("evt.order.>",), duplicate_window=None, max_age=None)
    unowned = replace(unowned, max_messages_per_subject=None, allow_rollup=None)
    for mode in ("verify", "create", "reconcile"):
        with pytest.raises(DeclarationConflict, match="duplicate_window"):
            await transport.declare([unowned], mode=mode)


async def test_replicas_that_a_single_server_cannot_have(transport):
    with pytest.raises(DeclarationConflict, match="err_code 10074"):
        await transport.declare([replace(ORDERS, replicas=3)], mode="create")


async def test_a_stream_without_a_limit_of_age(transport):
    spec = replace(ORDERS, max_age=timedelta(0), max_messages=-1)
    await transport.declare([spec], mode="create")
    assert not await transport.plan([spec])


async def test_many_processes_may_declare_at_once(config):
    transports = [NatsTransport(config) for _ in range(5)]
    for each in transports:
        await each.open()
    try:
        await asyncio.gather(*(each.declare([ORDERS], mode="create") for each in transports))
        other = replace(ORDERS, max_bytes=5_000)
        results = await asyncio.gather(
            *(each.declare([other], mode="create") for each in transports), return_exceptions=True
        )
        assert all(isinstance(each, DeclarationConflict) for each in results)
    finally:
        for each in transports:
            await each.close()


async def test_a_stream_somebody_made_meanwhile_with_other_settings(transport, monkeypatch):
    asked = transport.api.request

    async def faster(operation, payload=None, **options):
        if operation == "STREAM.CREATE.ORDER":
            await asked(operation, {"name": "ORDER", "subjects": ["evt.order.>"]})
        return await asked(operation, payload, **options)

    monkeypatch.setattr(transport.api, "request", faster)
    with pytest.raises(DeclarationConflict, match="by another process") as caught:
        await transport.declare([ORDERS], mode="create")
    assert any("subjects" in each for each in caught.value.differences or [])


async def test_hundreds_of_streams_are_compared(transport):
    specs = [StreamSpec(name=f"S{number}", subjects=(f"s{number}.>",)) for number in range(300)]
    plan = await transport.declare(specs, mode="create")
    assert plan.changes == tuple(Change("create", f"stream {spec.name}") for spec in specs)
    assert not await transport.plan(specs)
