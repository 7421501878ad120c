import asyncio
import json
from uuid import uuid4

import pytest
from books import all_published, end, start, stored
from calls_api.settings import from_environment

from common.config import ConfigError


async def test_an_ended_call_is_stored_and_its_event_published(api, bus):
    call_id = await start(api)
    ended = await end(api, call_id, **{"X-Correlation-ID": "order-7"})
    assert (ended.status_code, ended.json()["status"]) == (200, "completed")
    assert await all_published(api, bus) == [call_id]
    (message,) = await stored(bus)
    assert message.subject == "evt.call.completed"
    envelope = json.loads(message.data)
    assert envelope["data"] == {
        "call_id": call_id,
        "phone_number": "+4930123456",
        "duration_seconds": 12,
        "status": "completed",
        "failure_reason": None,
    }
    assert (envelope["source"], envelope["subject"]) == ("/calls", call_id)
    assert envelope["correlationid"] == "order-7"
    assert message.headers["Nats-Msg-Id"] == envelope["id"]


async def test_the_same_idempotency_key_starts_one_call(api):
    first, again, other = await asyncio.gather(
        *(start(api, **{"Idempotency-Key": key}) for key in ("a", "a", "b"))
    )
    assert first == again != other
    assert (await api.get("/summary")).json()["created"] == 2


async def test_a_call_ends_once_and_is_told_of_once(api, bus):
    call_id = await start(api)
    answers = await asyncio.gather(*(end(api, call_id) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    conflict = next(answer for answer in answers if answer.status_code == 409)
    assert conflict.json()["error"]["code"] == "CONFLICT"
    assert await all_published(api, bus) == [call_id]
    assert (await end(api, call_id)).status_code == 409  # its event has left the outbox
    assert await all_published(api, bus) == [call_id]


async def test_nothing_is_told_of_a_request_that_is_rolled_back(api, bus, administrator):
    await administrator.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not this one' USING ERRCODE = 'integrity_constraint_violation'; END $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON calls_api.calls
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )
    refused, other = await start(api), await start(api)
    assert (await end(api, refused)).is_error
    assert (await api.get(f"/calls/{refused}")).json()["ended_at"] is None
    await administrator.execute("DROP TRIGGER at_commit ON calls_api.calls")
    assert (await end(api, other)).status_code == 200
    assert await all_published(api, bus) == [other]
    # The trigger fires at COMMIT: the event had been added by then.
    assert await administrator.fetchval("SELECT nextval('calls_api.outbox_position_seq')") == 3


async def test_a_call_does_not_end_without_its_event(api, administrator):
    call_id = await start(api)
    await administrator.execute("ALTER TABLE calls_api.outbox RENAME TO away")
    answer = await end(api, call_id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "OUTBOX_NOT_MIGRATED")
    assert (await api.get(f"/calls/{call_id}")).json()["ended_at"] is None


async def test_an_unknown_call_is_not_found(api):
    answer = await api.get(f"/calls/{uuid4()}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "ringing", "duration_seconds": 1},
        {"status": "failed", "duration_seconds": 1},
        {"status": "completed", "duration_seconds": -1},
        {"status": "completed", "duration_seconds": 1, "failure_reason": "rejected"},
        {"status": "completed", "duration_seconds": 1, "extra": 1},
        {"status": "failed", "duration_seconds": 1, "failure_reason": "a\x00b"},
    ],
)
async def test_a_wrong_end_is_refused_and_changes_nothing(api, body):
    call_id = await start(api)
    assert (await api.post(f"/calls/{call_id}/end", json=body)).status_code == 422
    assert (await api.get(f"/calls/{call_id}")).json()["ended_at"] is None
    assert (await api.get("/summary")).json()["waiting"] == 0


async def test_pages_hold_every_call_once_in_order(api):
    made = [await start(api) for _ in range(7)]
    seen, after = [], None
    while True:
        query = {"limit": 3} | ({"after": after} if after else {})
        page = (await api.get("/calls", params=query)).json()
        seen += [call["call_id"] for call in page["calls"]]
        if (after := page["next_after"]) is None:
            break
    assert seen == made


async def test_pages_stay_whole_while_calls_come(api):
    made = [await start(api) for _ in range(4)]
    first = (await api.get("/calls", params={"limit": 2})).json()
    late = await start(api)
    query = {"limit": 10, "after": first["next_after"]}
    second = (await api.get("/calls", params=query)).json()
    assert [call["call_id"] for call in first["calls"] + second["calls"]] == [*made, late]
    assert second["next_after"] is None


async def test_calls_of_one_status_are_listed(api):
    made = [await start(api) for _ in range(5)]
    for call_id in made[::2]:
        await end(api, call_id)
    seen, after = [], None
    while True:
        query = {"status": "completed", "limit": 2} | ({"after": after} if after else {})
        page = (await api.get("/calls", params=query)).json()
        seen += [call["call_id"] for call in page["calls"]]
        if (after := page["next_after"]) is None:
            break
    assert seen == made[::2]


async def test_a_cursor_that_is_not_ours_is_refused(api):
    for _ in range(3):
        await start(api)
    good = (await api.get("/calls", params={"limit": 1})).json()["next_after"]
    flipped = good[:-1] + ("A" if good[-1] != "A" else "B")
    wrong = [
        {"after": ""},
        {"after": "nonsense"},
        {"after": str(uuid4())},
        {"after": flipped},
        {"after": "x" * 10_000},
        {"after": "a\x00b"},
        {"after": good, "status": "completed"},
    ]
    for query in wrong:
        answer = await api.get("/calls", params=query)
        assert answer.status_code == 422, query
        assert answer.json()["error"]["code"] == "DB_INVALID_CURSOR"
    assert (await api.get("/calls", params={"after": good})).status_code == 200


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"status": "none"}, {"offset": 3}]
)
async def test_a_wrong_query_is_refused(api, query):
    assert (await api.get("/calls", params=query)).status_code == 422


async def test_without_post_processing_no_call_is_processed(api):
    call_id = await start(api)
    await end(api, call_id)
    assert (await api.get(f"/calls/{call_id}")).json()["processed_at"] is None
    for processed, found in (("false", 1), ("true", 0)):
        page = (await api.get("/calls", params={"processed": processed})).json()
        assert len(page["calls"]) == found
    summary = (await api.get("/summary")).json()
    assert (summary["ended"], summary["processed"], summary["duplicate_effects"]) == (1, 0, 0)


async def test_readiness_tells_how_database_and_outbox_are(api):
    answer = await api.get("/readyz")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["ok"], body["degraded"]) == (True, False)
    assert body["database"]["pool"]["in_use"] == 0
    assert body["outbox"] == {"rows": 0, "age": 0, "failing": 0, "dead": 0}


async def test_without_a_relay_events_wait_and_readiness_tells(api, settings, relay, monkeypatch):
    monkeypatch.setattr("calls_api.app.LATE_SECONDS", 0.1)
    call_id = await start(api)
    await end(api, call_id)
    async with asyncio.timeout(60):
        while not (ready := (await api.get("/readyz")).json())["degraded"]:
            await asyncio.sleep(0.05)
    assert (ready["ok"], ready["outbox"]["rows"]) == (True, 1)
    async with relay(settings) as bus:
        assert await all_published(api, bus) == [call_id]
    assert (await api.get("/readyz")).json()["degraded"] is False


async def test_ids_come_back_on_every_answer(api):
    answer = await api.get(f"/calls/{uuid4()}", headers={"X-Request-ID": "r-1"})
    assert answer.headers["x-request-id"] == "r-1"
    bad = await api.get("/livez", headers={"X-Request-ID": "r\t1" * 50})
    assert bad.headers["x-request-id"] != "r\t1" * 50


def test_missing_settings_are_all_named(monkeypatch):
    for name in ("CALLS_DATABASE__URL", "CALLS_NATS__SERVERS", "CALLS_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as caught:
        from_environment()
    for name in ("database", "nats", "redis_url"):
        assert name in str(caught.value)


def test_the_relay_is_set_by_the_environment(monkeypatch, settings):
    for name, value in {
        "CALLS_DATABASE__URL": settings.database.url.get_secret_value(),
        "CALLS_NATS__SERVERS": '["nats://127.0.0.1:4222"]',
        "CALLS_REDIS_URL": "redis://127.0.0.1:6379/0",
        "CALLS_RELAY__LEASE_SECONDS": "4",
        "CALLS_RELAY__KEEP_ARCHIVE": "P1D",
    }.items():
        monkeypatch.setenv(name, value)
    relay = from_environment().relay
    assert (relay.lease_seconds, relay.publish_timeout_seconds) == (4, 2)
    assert relay.keep_archive.days == 1
