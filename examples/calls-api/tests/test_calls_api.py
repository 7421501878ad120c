import asyncio
import json
from uuid import uuid4

import pytest
from books import all_published, call, end, pages, report, start, stored, summary
from calls_api.settings import from_environment

from common.config import ConfigError


async def test_an_ended_call_is_stored_and_its_event_published(api, bus):
    call_id = await start(api)
    ended = await end(api, call_id, **{"X-Correlation-ID": "order-7"})
    assert (ended.status_code, ended.json()["data"]["status"]) == (200, "completed")
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
    assert (await summary(api))["created"] == 2
    other = await api.post(
        "/calls", json={"phone_number": "+4930999999"}, headers={"Idempotency-Key": "a"}
    )
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await summary(api))["created"] == 2


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
    assert (await call(api, refused))["ended_at"] is None
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
    assert (await call(api, call_id))["ended_at"] is None


async def test_an_unknown_call_is_not_found(api):
    answer = await api.get(f"/calls/{uuid4()}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "ringing", "duration_seconds": 1},
        {"status": "failed", "duration_seconds": 1},
        {"status": "completed", "duration_seconds": -1},
        {"status": "completed", "duration_seconds": True},
        {"status": "completed", "duration_seconds": "12"},
        {"status": "completed", "duration_seconds": 10**400},
        {"status": "completed", "duration_seconds": 1, "failure_reason": "rejected"},
        {"status": "completed", "duration_seconds": 1, "extra": 1},
        {"status": "failed", "duration_seconds": 1, "failure_reason": "a\x00b"},
    ],
)
async def test_a_wrong_end_is_refused_and_changes_nothing(api, body):
    call_id = await start(api)
    assert (await api.post(f"/calls/{call_id}/end", json=body)).status_code == 422
    assert (await call(api, call_id))["ended_at"] is None
    assert (await summary(api))["waiting"] == 0


async def test_pages_hold_every_call_once_in_order(api):
    made = [await start(api) for _ in range(7)]
    assert [call["call_id"] for call in await pages(api, limit=3)] == made


async def test_pages_stay_whole_while_calls_come(api):
    made = [await start(api) for _ in range(4)]
    first = (await api.get("/calls", params={"limit": 2})).json()
    late = await start(api)
    second = (await api.get(first["links"]["next"].replace("limit=2", "limit=10"))).json()
    assert [call["call_id"] for call in first["data"] + second["data"]] == [*made, late]
    assert second["pagination"]["next_cursor"] is None


async def test_calls_of_one_status_are_listed(api):
    made = [await start(api) for _ in range(5)]
    for call_id in made[::2]:
        await end(api, call_id)
    found = await pages(api, status="completed", limit=2)
    assert [call["call_id"] for call in found] == made[::2]


async def test_calls_that_are_processed_or_not_are_listed(api):
    made = [await start(api) for _ in range(5)]
    for call_id in made[:4]:
        await end(api, call_id)
    for call_id in made[:3]:
        await report(api, call_id, uuid4())
    for query, expected in (
        ({"processed": True}, made[:3]),
        ({"processed": False}, made[3:]),
        ({"processed": False, "status": "completed"}, made[3:4]),
        ({"processed": True, "status": "busy"}, []),
    ):
        found = await pages(api, limit=2, **query)
        assert [call["call_id"] for call in found] == expected


async def test_a_cursor_that_is_not_ours_is_refused(api):
    for _ in range(3):
        await start(api)
    page = (await api.get("/calls", params={"limit": 1})).json()
    good = page["pagination"]["next_cursor"]
    flipped = good[:-1] + ("A" if good[-1] != "A" else "B")
    wrong = [
        ({"cursor": ""}, "VALIDATION_ERROR"),
        ({"cursor": "nonsense"}, "DB_INVALID_CURSOR"),
        ({"cursor": str(uuid4())}, "DB_INVALID_CURSOR"),
        ({"cursor": flipped}, "DB_INVALID_CURSOR"),
        ({"cursor": "x" * 5_000}, "VALIDATION_ERROR"),
        ({"cursor": "a\x00b"}, "DB_INVALID_CURSOR"),
        ({"cursor": good, "status": "completed"}, "DB_INVALID_CURSOR"),
        ({"cursor": good, "processed": "true"}, "DB_INVALID_CURSOR"),
    ]
    for query, code in wrong:
        answer = await api.get("/calls", params=query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code), query
    assert (await api.get("/calls", params={"cursor": good})).status_code == 200


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"status": "none"}])
async def test_a_wrong_query_is_refused(api, query):
    assert (await api.get("/calls", params=query)).status_code == 422


async def test_a_report_makes_a_call_processed_once(api):
    call_id, session = await start(api), uuid4()
    early = await report(api, call_id, session)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "CONFLICT")
    await end(api, call_id)
    assert (await call(api, call_id))["processed_at"] is None
    answers = await asyncio.gather(*(report(api, call_id, session) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    shown = await call(api, call_id)
    assert shown["processed_at"] is not None
    assert shown["transcript_id"] == str(session)
    assert (await report(api, call_id, uuid4())).status_code == 409  # the effect came twice
    assert await call(api, call_id) == shown
    assert (await report(api, uuid4(), session)).status_code == 404
    books = await summary(api)
    assert (books["ended"], books["processed"]) == (1, 1)


async def test_of_reports_of_different_records_one_wins(api):
    call_id = await start(api)
    await end(api, call_id)
    answers = await asyncio.gather(*(report(api, call_id, uuid4()) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    (won,) = (answer.json()["data"] for answer in answers if answer.status_code == 200)
    assert await call(api, call_id) == won


async def test_what_has_not_changed_is_not_sent_again(api):
    call_id = await start(api)
    first = await api.get(f"/calls/{call_id}")
    known = {"If-None-Match": first.headers["ETag"]}
    again = await api.get(f"/calls/{call_id}", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    ended = await end(api, call_id)
    changed = await api.get(f"/calls/{call_id}", headers=known)
    assert changed.status_code == 200
    assert changed.headers["ETag"] == ended.headers["ETag"] != first.headers["ETag"]


async def test_a_call_that_changed_meanwhile_does_not_end(api):
    call_id = await start(api)
    tag = (await api.get(f"/calls/{call_id}")).headers["ETag"]
    stale = await end(api, call_id, **{"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["error"]["code"]) == (412, "PRECONDITION_FAILED")
    assert (await call(api, call_id))["ended_at"] is None
    answers = await asyncio.gather(*(end(api, call_id, **{"If-Match": tag}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]


async def until_ready(api, status, **checks):
    """Wait until readiness is so, and the checks named are."""
    async with asyncio.timeout(60):
        while True:
            answer = await api.get("/readyz")
            found = {name: check["status"] for name, check in answer.json()["checks"].items()}
            if answer.json()["status"] == status and found.items() >= checks.items():
                return answer
            await asyncio.sleep(0.1)


async def test_readiness_asks_database_outbox_broker_and_redis(api):
    answer = await until_ready(api, "ok", database="ok", outbox="ok", nats="ok", redis="ok")
    assert answer.status_code == 200
    async with asyncio.timeout(60):  # a check that was late once is asked again
        while (report := (await api.get("/health")).json())["status"] != "healthy":
            await asyncio.sleep(0.1)
    assert report["service"] == "calls-api"


async def test_without_a_relay_events_wait_and_readiness_tells(api, settings, relay, monkeypatch):
    monkeypatch.setattr("calls_api.app.LATE_SECONDS", 0.1)
    call_id = await start(api)
    await end(api, call_id)
    late = await until_ready(api, "degraded", database="ok", outbox="failed")
    assert late.status_code == 200
    async with relay(settings) as bus:
        assert await all_published(api, bus) == [call_id]
    await until_ready(api, "ok")


async def test_ids_come_back_on_every_answer(api):
    answer = await api.get(f"/calls/{uuid4()}", headers={"X-Request-ID": "r-1"})
    assert answer.headers["x-request-id"] == answer.json()["meta"]["request_id"] == "r-1"
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
