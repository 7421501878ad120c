"""A request that is sent twice is done once."""

import asyncio
from typing import Any

import pytest
from api_drivers import ask, scope_of
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import StreamingResponse

from common.api import (
    Claim,
    HTTPError,
    IdempotencyKeyDep,
    MemoryIdempotencyStore,
    StoredResponse,
    idempotent,
    install,
)
from common.api._idempotency import MAX_STORED
from common.errors import ConflictError, DatabaseError, UnauthorizedError


class Shop:
    """Counts what was done; misbehaves as told."""

    def __init__(self, store=None, **options):
        self.done, self.go, self.begun = [], asyncio.Event(), asyncio.Event()
        self.go.set()
        self.error: Exception | None = None
        self.store = store or MemoryIdempotencyStore()
        self.app = app = FastAPI()
        install(app, service="orders", idempotency=self.store)

        @app.post("/orders", status_code=201, dependencies=[Depends(idempotent(**options))])
        async def create(request: Request):
            self.begun.set()
            await self.go.wait()
            self.done.append(await request.json())
            if self.error:
                raise self.error
            return {"number": len(self.done)}

    async def post(self, key: Any = "k-1", body=None, **headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Idempotency-Key"] = key
        return await ask(self.app, "POST", "/orders", json_body=body or {"n": 1}, headers=sent)


async def test_the_second_gets_the_first_ones_answer_under_its_own_id():
    shop = Shop()
    first = await shop.post(x_request_id="r-1")
    second = await shop.post(x_request_id="r-2")
    assert (first.status, first.json()) == (second.status, second.json()) == (201, {"number": 1})
    assert (first.header("idempotency-replayed"), second.header("idempotency-replayed")) == (
        None,
        "true",
    )
    assert second.header("x-request-id") == "r-2"
    assert second.header("content-type") == first.header("content-type")
    assert len(shop.done) == 1


async def test_another_request_with_the_key_is_refused():
    shop = Shop()
    await shop.post()
    answer = await shop.post(body={"n": 2})
    assert (answer.status, answer.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(shop.done) == 1


async def test_fifty_at_once_are_done_once():
    shop = Shop()
    shop.go.clear()
    first = asyncio.create_task(shop.post())
    await shop.begun.wait()
    others = await asyncio.gather(*(shop.post() for _ in range(50)))
    assert {a.status for a in others} == {409}
    assert others[0].header("retry-after") == "1"
    shop.go.set()
    assert (await first).status == 201
    assert len(shop.done) == 1


@pytest.mark.parametrize(
    "error",
    [KeyError("crash"), DatabaseError("down"), ConflictError("later"), HTTPException(429)],
)
async def test_what_was_not_done_may_be_tried_again(error):
    shop = Shop()
    shop.error = error
    assert (await shop.post()).status >= 400
    shop.error = None
    assert (await shop.post()).status == 201
    assert len(shop.done) == 2


async def test_a_refusal_that_is_final_is_kept():
    shop = Shop()
    shop.error = HTTPException(402, "no money")
    first = await shop.post()
    assert ((await shop.post()).body, len(shop.done)) == (first.body, 1)


async def test_without_a_key_everything_is_done():
    shop = Shop()
    assert [(await shop.post(None)).status for _ in range(2)] == [201, 201]
    assert len(shop.done) == 2


async def test_a_key_may_be_required():
    shop = Shop(required=True)
    answer = await shop.post(None)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_REQUIRED")
    assert shop.done == []


@pytest.mark.parametrize("key", ["", "a b", "é", "a\x00", "x" * 256, '"half', "a\\b\x7f"])
async def test_malformed_keys_are_refused(key):
    answer = await Shop().post(key.encode("latin-1"))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_INVALID")


async def test_a_quoted_key_is_the_same_key():
    shop = Shop()
    await shop.post('"k-1"')
    assert (await shop.post("k-1")).header("idempotency-replayed") == "true"


async def test_nobody_sees_anothers_answer():
    shop = Shop()
    await shop.post(authorization="Bearer ada")
    for headers in ({}, {"authorization": "Bearer eve"}, {"x_api_key": "Bearer ada"}):
        assert (await shop.post(**headers)).header("idempotency-replayed") is None
    assert len(shop.done) == 4


async def test_the_identity_runs_before_anything_is_shown():
    def user(x_user: str = Header()):
        if x_user == "eve":
            raise UnauthorizedError
        return x_user

    shop = Shop(identity=user)
    await shop.post(x_user="ada", authorization="old token")
    again = await shop.post(x_user="ada", authorization="new token")
    assert again.header("idempotency-replayed") == "true"
    assert (await shop.post(x_user="eve")).status == 401


@pytest.mark.parametrize("seconds", [3600.0, 0.001])
async def test_a_cancelled_request_keeps_its_key_until_its_time_is_up(seconds):
    shop = Shop(MemoryIdempotencyStore(claim_ttl=seconds))
    shop.go.clear()
    task = asyncio.create_task(shop.post())
    await shop.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.go.set()
    if seconds == 3600.0:
        assert (await shop.post()).status == 409
    else:
        while (await shop.post()).status != 201:
            await asyncio.sleep(0.001)


async def test_an_answer_beyond_the_bound_is_not_kept():
    app, done = FastAPI(), []
    install(app, service="orders", idempotency=MemoryIdempotencyStore())

    @app.post("/", dependencies=[Depends(idempotent())])
    async def big():
        done.append(1)

        async def parts():
            for _ in range(3):
                yield b"x" * (MAX_STORED // 2)

        return StreamingResponse(parts())

    for _ in range(2):
        answer = await ask(app, "POST", headers={"Idempotency-Key": "k"})
        assert len(answer.body) == MAX_STORED // 2 * 3
    assert len(done) == 2


async def test_cookies_are_not_given_to_the_next():
    app = FastAPI()
    install(app, service="orders", idempotency=MemoryIdempotencyStore())

    @app.post("/", dependencies=[Depends(idempotent())])
    async def login():
        from fastapi.responses import JSONResponse

        response = JSONResponse({})
        response.set_cookie("session", "s3cret")
        return response

    first, second = [await ask(app, "POST", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert first.header("set-cookie")
    assert second.header("set-cookie") is None


async def test_the_key_alone():
    app = FastAPI()
    install(app, service="orders")

    @app.post("/")
    async def handler(key: IdempotencyKeyDep):
        return key

    assert (await ask(app, "POST", headers={"Idempotency-Key": "k"})).json() == "k"
    assert (await ask(app, "POST")).json() is None
    twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert (await ask(app, "POST", headers=twice)).status == 400


async def test_a_missing_store_says_what_to_do(log):
    app = FastAPI()
    install(app, service="orders")

    @app.post("/", dependencies=[Depends(idempotent())])
    async def handler(): ...

    assert (await ask(app, "POST", headers={"Idempotency-Key": "k"})).status == 500
    assert any("idempotency=" in str(r.exc_info) for r in log if r.exc_info)


def claim(key, token="t"):
    return Claim(key=key, token=token, fingerprint="f")


RESPONSE = StoredResponse(status=200, headers=(), body=b"")


async def test_the_memory_store_is_bounded_and_drops_answers_before_claims():
    store = MemoryIdempotencyStore(max_entries=3)
    await store.claim(claim("under way"))
    for n in range(100):
        assert await store.claim(claim(str(n))) is None
        await store.store(claim(str(n)), RESPONSE)
    assert len(store._entries) == 3
    assert "under way" in store._entries
    for n in range(2):
        await store.claim(claim(f"new-{n}"))
    with pytest.raises(HTTPError, match="Too many requests"):
        await store.claim(claim("one more"))


async def test_a_claim_that_was_given_up_changes_nothing_any_more():
    store = MemoryIdempotencyStore(claim_ttl=0.001)
    await store.claim(claim("k", "old"))
    while await store.claim(claim("k", "new")) is not None:
        await asyncio.sleep(0.001)
    await store.store(claim("k", "old"), RESPONSE)
    await store.release(claim("k", "old"))
    assert store._entries["k"].claim.token == "new"
    assert store._entries["k"].response is None


async def test_answers_expire():
    store = MemoryIdempotencyStore(ttl=0.001)
    await store.claim(claim("k"))
    await store.store(claim("k"), RESPONSE)
    while await store.claim(claim("k")) is not None:
        await asyncio.sleep(0.001)


async def test_the_memory_store_is_bounded_in_bytes_too():
    store = MemoryIdempotencyStore(max_bytes=100)
    for n in range(50):
        await store.claim(claim(str(n)))
        await store.store(claim(str(n)), StoredResponse(status=200, headers=(), body=b"x" * 30))
    assert sorted(store._entries, key=int) == ["47", "48", "49"]
    await store.release(claim("49"))
    assert store._bytes == 60


class Failing(MemoryIdempotencyStore):
    """Fails once a claim is taken."""

    async def store(self, claim, response, /):
        raise DatabaseError("down")

    async def release(self, claim, /):
        raise DatabaseError("down")


async def test_a_store_that_fails_after_the_work_costs_nobody_the_answer(log):
    shop = Shop(Failing())
    answer = await shop.post()
    assert (answer.status, answer.json(), answer.error) == (201, {"number": 1}, None)
    assert any("idempotency store failed" in record.getMessage() for record in log)
    assert (await shop.post()).status == 409


async def test_a_store_that_fails_does_not_hide_why_it_was_asked(log):
    shop = Shop(Failing())
    shop.error = KeyError("the reason")
    assert (await shop.post()).json()["error"]["code"] == "INTERNAL_ERROR"
    assert {type(r.exc_info[1]) for r in log if r.exc_info} == {DatabaseError, KeyError}


async def test_a_body_that_was_read_before_counts_too():
    # As FastAPI reads forms, which need python-multipart.
    async def read(request: Request):
        return b"".join([part async for part in request.stream()])

    app, done = FastAPI(), []
    install(app, service="orders", idempotency=MemoryIdempotencyStore())

    @app.post("/", dependencies=[Depends(read), Depends(idempotent())])
    async def handler():
        done.append(1)

    headers = {"Idempotency-Key": "k"}
    answers = [await ask(app, "POST", body=body, headers=headers) for body in (b"1", b"1", b"2")]
    assert [a.status for a in answers] == [200, 200, 422]
    assert len(done) == 1


async def test_the_applications_own_middleware_does_not_change_an_answer_twice():
    class Sign:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            async def sending(message):
                if message["type"] == "http.response.start":
                    message["headers"] = [
                        *((n, v) for n, v in message["headers"] if n != b"content-length"),
                        (b"x-signed", b"1"),
                    ]
                elif not message.get("more_body"):
                    message["body"] += b"!"
                await send(message)

            await self.app(scope, receive, sending)

    app = FastAPI()
    install(app, service="orders", idempotency=MemoryIdempotencyStore())
    app.add_middleware(Sign)

    @app.post("/", dependencies=[Depends(idempotent())])
    async def handler():
        return 1

    for replayed in (None, "true"):
        answer = await ask(app, "POST", headers={"Idempotency-Key": "k"})
        assert (answer.body, answer.header("x-signed")) == (b"1!", "1")
        assert answer.header("idempotency-replayed") == replayed


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_client_that_goes_away_from_the_answer_leaves_its_key_taken(spec_version):
    app, done = FastAPI(), []
    install(app, service="orders", idempotency=MemoryIdempotencyStore())

    @app.post("/", dependencies=[Depends(idempotent())])
    async def handler():
        done.append(1)

        async def parts():
            while True:
                yield b"x"
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    scope = scope_of("POST", headers=[(b"idempotency-key", b"k")])
    scope["asgi"]["spec_version"] = spec_version
    waiting = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        if spec_version == "2.4" and message.get("body"):
            raise OSError  # as such servers say it

    await app(scope, receive, send)
    assert done == [1]
    assert (await ask(app, "POST", headers={"Idempotency-Key": "k"})).status == 409


async def test_an_answer_that_is_stored_twice_is_counted_once():
    store = MemoryIdempotencyStore()
    await store.claim(claim("k"))
    for size in (100, 10):
        await store.store(claim("k"), StoredResponse(status=200, headers=(), body=b"x" * size))
    assert store._bytes == 10


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_without_a_store_the_first_request_says_so(headers, log):
    app = FastAPI()
    install(app, service="orders")

    @app.post("/orders", dependencies=[Depends(idempotent())])
    async def create(): ...

    assert (await ask(app, "POST", "/orders", headers=headers)).status == 500
    assert any("idempotent() needs a store" in str(record.exc_info) for record in log)


@pytest.mark.parametrize("name", ["ttl", "claim_ttl", "max_entries", "max_bytes"])
@pytest.mark.parametrize("value", ["1", 0])
def test_a_store_with_what_is_no_number_is_refused_by_name(name, value):
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name}="):
        MemoryIdempotencyStore(**options)
