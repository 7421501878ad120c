import pytest
from nats_consuming import Nats, receive, spec

from common.events.core._errors import DeclarationConflict, MissingStream
from common.events.nats._consumer_config import MAX_ACK_PENDING, compare, ensure, wanted


async def create(nats: Nats, durable: str = "d", **config: object) -> None:
    await nats.api.request(
        f"CONSUMER.CREATE.S.{durable}",
        {
            "stream_name": "S",
            "config": {
                "durable_name": durable,
                "name": durable,
                "ack_policy": "explicit",
                "deliver_policy": "all",
                **config,
            },
        },
    )


async def test_a_missing_consumer_is_made_as_declared(nats: Nats):
    info = await ensure(nats.api, spec(ack_wait=12.5, max_deliver=7, deliver="new"))
    config = info["config"]
    assert config["ack_policy"] == "explicit"
    assert config["ack_wait"] == 12_500_000_000
    assert config["max_deliver"] == 7
    assert config["deliver_policy"] == "new"
    assert config["filter_subjects"] == ["s.>"]
    assert config["max_ack_pending"] == MAX_ACK_PENDING
    assert "priority_policy" not in config


async def test_an_ordered_consumer_has_a_pinned_client_and_no_more_room_than_a_process(nats: Nats):
    config = (await ensure(nats.api, spec(ordered=True, max_outstanding=9)))["config"]
    assert config["priority_policy"] == "pinned_client"
    assert config["max_ack_pending"] == 9
    assert config["priority_timeout"] < config["ack_wait"]


@pytest.mark.parametrize("settings", [{}, {"ordered": True}, {"max_deliver": 3, "deliver": "new"}])
async def test_declaring_the_same_again_changes_nothing(nats: Nats, settings):
    first = await ensure(nats.api, spec(**settings))
    second = await ensure(nats.api, spec(**settings))
    assert compare(spec(**settings), first["config"]) == []
    assert first["config"] == second["config"]
    assert first["created"] == second["created"]


async def test_what_differs_and_can_be_changed_is_changed_and_the_rest_left_alone(nats: Nats):
    await create(
        nats,
        filter_subject="s.old",
        ack_wait=5_000_000_000,
        description="the operator's note",
        inactive_threshold=10**15,
        backoff=[10**9, 2 * 10**9],
        max_deliver=5,
    )
    changes = compare(spec(), (await nats.info())["config"])
    assert {change.field for change in changes} >= {"filter_subjects", "backoff", "max_deliver"}
    assert all(change.kind == "update" for change in changes)
    info = await ensure(nats.api, spec(subjects=("s.a", "s.b")))
    config = info["config"]
    assert sorted(config["filter_subjects"]) == ["s.a", "s.b", "s.old"]
    assert config["ack_wait"] == 30_000_000_000
    assert not config.get("backoff")
    assert config["description"] == "the operator's note"
    assert config["inactive_threshold"] == 10**15
    assert compare(spec(subjects=("s.b", "s.a")), config) == []


@pytest.mark.parametrize(
    ("existing", "settings", "field"),
    [
        ({"ack_policy": "none"}, {}, "ack_policy"),
        ({"deliver_subject": "push.here"}, {}, "deliver_subject"),
        ({"deliver_policy": "new"}, {"deliver": "all"}, "deliver"),
        ({}, {"ordered": True}, "ordered"),
        (
            {"priority_policy": "pinned_client", "priority_groups": ["x"]},
            {"ordered": False},
            "ordered",
        ),
        ({"priority_policy": "overflow", "priority_groups": ["x"]}, {}, "ordered"),
    ],
)
async def test_what_cannot_be_changed_is_said_with_both_values(nats, existing, settings, field):
    await create(nats, **existing)
    with pytest.raises(DeclarationConflict, match="cannot be changed") as raised:
        await ensure(nats.api, spec(**settings))
    assert any(line.startswith(f"{field}: ") for line in raised.value.differences or ())
    assert "Delete it, or give the subscription another durable name" in raised.value.message
    for name, value in existing.items():
        assert (await nats.info())["config"][name] == value


async def test_a_server_that_does_not_know_how_to_keep_order_is_not_used_for_it(
    nats: Nats, monkeypatch
):
    """Servers before 2.11 leave out settings which they do not know."""
    asked = nats.api.request

    async def older(operation, payload=None, **options):
        answer = await asked(operation, payload, **options)
        for name in ("priority_policy", "priority_groups", "priority_timeout"):
            answer.get("config", {}).pop(name, None)
        return answer

    monkeypatch.setattr(nats.api, "request", older)
    with pytest.raises(DeclarationConflict, match=r"nats-server 2\.11"):
        await nats.consume(ordered=True)


async def test_what_is_changed_is_said_with_both_values(nats: Nats, caplog):
    await ensure(nats.api, spec(subjects=("s.a",), ack_wait=20))
    await ensure(nats.api, spec(subjects=("s.b",)))
    [record] = [each for each in caplog.records if each.name.endswith("_consumer_config")]
    assert "S/d is changed" in record.message
    assert "ack_wait: 20000000000, wanted 30000000000" in record.message
    assert "filter_subjects: ['s.a'], wanted ['s.a', 's.b']" in record.message


@pytest.mark.parametrize(
    ("found", "subjects", "then"),
    [
        (["s.a", "s.b"], ("s.a",), ["s.a", "s.b"]),
        (["s.a"], ("s.b", "s.c"), ["s.a", "s.b", "s.c"]),
        (["s.a", "s.b.c"], ("s.b.>",), ["s.a", "s.b.>"]),
        (["s.*"], ("s.a", "s.b.c"), ["s.*", "s.b.c"]),
        (["s.*"], ("s.>",), ["s.>"]),
        (["s.>"], ("s.*", "s.a.>"), ["s.>"]),
        ([], ("s.a",), []),
    ],
)
async def test_no_release_takes_subjects_from_another(nats: Nats, found, subjects, then):
    await create(nats, filter_subjects=found)
    info = await ensure(nats.api, spec(subjects=subjects))
    assert sorted(info["config"].get("filter_subjects") or []) == then
    assert not compare(spec(subjects=subjects), info["config"])


async def test_an_older_release_that_starts_again_makes_the_newer_miss_nothing(nats: Nats):
    newer = await nats.consume(subjects=("s.a", "s.b"))
    await newer.stop()
    older = await nats.consume(subjects=("s.a",))
    await nats.publish("s.b")
    [unknown] = await receive(older, 1)  # whose bus makes it a dead letter
    await unknown.nak()
    await older.stop()
    newer = await nats.consume(subjects=("s.a", "s.b"))
    assert [each.subject for each in await receive(newer, 1)] == ["s.b"]


async def test_what_the_server_refuses_is_a_conflict_in_its_words(nats: Nats):
    with pytest.raises(DeclarationConflict, match="refuses consumer S/d") as raised:
        await ensure(nats.api, spec(subjects=("s.>", "s.a")))  # they overlap
    assert raised.value.__cause__ is not None
    assert not raised.value.retryable


async def test_a_missing_stream_is_said(nats: Nats):
    with pytest.raises(MissingStream):
        await ensure(nats.api, spec(stream="NONE"))


def test_subjects_named_twice_are_asked_for_once():
    assert wanted(spec(subjects=("a", "b", "a")))["filter_subjects"] == ["a", "b"]
