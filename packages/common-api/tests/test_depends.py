"""Dependencies: ids, the client's address, conditions, rate limits."""

from typing import Any, cast

import pytest
from api_drivers import ask
from fastapi import Depends, FastAPI, Response

from common.api import (
    ClientIPDep,
    Conditional,
    ConditionalDep,
    CorrelationIdDep,
    HTTPError,
    MemoryRateLimiter,
    PreconditionFailedError,
    RequestContextDep,
    RequestIdDep,
    TrustedProxies,
    etag,
    install,
    rate_limit,
)


def make_app(**options):
    app = FastAPI()
    install(app, service="orders", **options)
    return app


async def test_ids_and_context():
    app = make_app()

    @app.get("/")
    async def handler(r: RequestIdDep, c: CorrelationIdDep, context: RequestContextDep):
        return [r, c, context.service]

    answer = await ask(app, headers={"X-Request-ID": "r-1", "X-Correlation-ID": "c-1"})
    assert answer.json() == ["r-1", "c-1", "orders"]


async def test_without_the_stack_an_id_says_what_to_do():
    app = FastAPI()

    @app.get("/")
    async def handler(r: RequestIdDep): ...

    assert "install(app)" in str((await ask(app)).error)


PROXIES = ["10.0.0.0/8", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["1.1.1.1"], "203.0.113.7"),  # forged: the peer is no proxy
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # forged: left of the client
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),  # two headers are one list
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, junk"], "10.0.0.1"),  # nothing left of junk is believed
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:5123"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db9::1]:5123"], "2001:db9::1"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("2001:db8::1", ["2001:0db9:0::1"], "2001:db9::1"),
        ("10.0.0.1", [",".join(["1.1.1.1"] * 10_000) + ", 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [", ".join(["203.0.113.9", *["10.0.0.2"] * 100])], "10.0.0.2"),  # bounded
        ("10.0.0.1", ["1" * 100_000], "10.0.0.1"),
        ("fe80::1%eth0", ["203.0.113.9"], None),
        ("testclient", ["203.0.113.9"], None),
    ],
)
async def test_the_client_is_the_first_from_the_right_that_is_no_proxy(peer, forwarded, client):
    app = make_app(proxies=PROXIES, limits=None)

    @app.get("/")
    async def handler(ip: ClientIPDep):
        return ip

    headers = [("x-forwarded-for", value) for value in forwarded]
    assert (await ask(app, headers=headers, client=(peer, 1))).json() == client


def test_unix_sockets_have_no_address():
    assert TrustedProxies(["unix"]).client_ip(None, ["203.0.113.9"]) == "203.0.113.9"
    assert TrustedProxies(["10.0.0.0/8"]).client_ip(None, ["203.0.113.9"]) is None


@pytest.mark.parametrize(("given", "error"), [(["x"], ValueError), ("10.0.0.0/8", TypeError)])
def test_networks_are_checked_at_once(given, error):
    with pytest.raises(error):
        make_app(proxies=given)


def conditional_app():
    app = make_app()

    @app.get("/")
    async def read(conditions: ConditionalDep, response: Response):
        conditions.not_modified(7)
        response.headers["ETag"] = etag(7)
        return "body"

    @app.put("/")
    async def change(conditions: ConditionalDep):
        conditions.check(7, required=True)
        return conditions.expected_version

    @app.put("/new")
    async def create(conditions: ConditionalDep, exists: bool = False, required: bool = False):
        conditions.check(7 if exists else None, required=required)

    return app


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 200), ('"6"', 200), ('"7"', 304), ('W/"7"', 304), ("*", 304), ('"6", "7"', 304),
        ("7", 200), ('"7', 200), ('w/"7"', 200), ('W/ "7"', 200), ('"a" "7"', 200),
        ('"a, "7"', 200), ('*, "7"', 200), ('"6",, "7" ,', 304), ('"a,b", "7"', 304),
        (", " * 8000, 200),
    ],
)  # fmt: skip
async def test_reads_of_a_version_that_is_known(given, status):
    answer = await ask(conditional_app(), headers={"If-None-Match": given} if given else {})
    assert (answer.status, answer.header("etag")) == (status, '"7"')
    assert bool(answer.body) is (status == 200)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 428), ('"7"', 200), ('"6"', 412), ('W/"7"', 412), ("*", 200), ('"6", "7"', 412),
        ("7", 400), ("nonsense", 400), ('"7' + "7" * 10_000, 400), ('x"7"', 400),
        ('w/"7"', 400), ('"7"x', 400), (" " * 10_000 + "x", 400), (",", 400), ("", 400),
    ],
)  # fmt: skip
async def test_changes_of_a_version_that_is_another(given, status):
    headers = {"If-Match": given} if given is not None else {}
    answer = await ask(conditional_app(), "PUT", headers=headers)
    assert answer.status == status
    if status == 400:
        shown = answer.json()["error"]
        assert shown["code"] == "PRECONDITION_INVALID"
        assert "quotes" in shown["message"]
    if status == 200:
        assert answer.json() == (7 if given == '"7"' else None)


async def test_creating_only_what_is_not_there():
    headers = {"If-None-Match": "*"}
    assert (await ask(conditional_app(), "PUT", "/new", headers=headers)).status == 200
    assert (await ask(conditional_app(), "PUT", "/new?exists=1", headers=headers)).status == 412
    assert (await ask(conditional_app(), "PUT", "/new", headers={"If-Match": "*"})).status == 412


@pytest.mark.parametrize(
    ("query", "given", "status"),
    [
        ("", "*", 200), ("", None, 428), ("", '"6"', 428), ("&exists=1", "*", 412),
        ("&exists=1", None, 428), ("&exists=1", '"6"', 428), ("", "7", 400), ("", '"7', 400),
    ],
)  # fmt: skip
async def test_a_creation_has_its_own_condition(query, given, status):
    headers = {"If-None-Match": given} if given else {}
    answer = await ask(conditional_app(), "PUT", f"/new?required=1{query}", headers=headers)
    assert answer.status == status
    if status == 428:  # what to send is what can be had
        wanted = "If-Match" if "exists" in query else "If-None-Match: *"
        assert answer.json()["error"]["message"].startswith(f"Send {wanted}")


async def test_a_malformed_condition_of_a_change_is_not_passed_over():
    headers = {"If-None-Match": '"7'}
    assert (await ask(conditional_app(), "PUT", "/new?exists=1", headers=headers)).status == 400
    with pytest.raises(HTTPError, match="If-Match"):
        _ = Conditional(["7"], []).expected_version


@pytest.mark.parametrize("version", [None, 'a"b', "a\r\nb", "a b", "x" * 257])
def test_versions_that_no_tag_can_hold(version):
    with pytest.raises(ValueError, match="entity tag"):
        etag(version)


async def test_a_rate_limit_refuses_by_client_and_says_when(operations):
    app = make_app()
    limit = rate_limit(MemoryRateLimiter(limit=2, window=3600.0))

    @app.get("/", dependencies=[Depends(limit)])
    async def handler(): ...

    answers = [await ask(app) for _ in range(3)]
    assert [a.status for a in answers] == [200, 200, 429]
    assert [a.header("ratelimit-remaining") for a in answers] == ["1", "0", "0"]
    assert 3590 <= int(answers[2].header("retry-after")) <= 3600
    details = answers[2].json()["error"]["details"]
    assert (details["limit"], details["window"]) == (2, "3600s")
    assert (await ask(app, client=("203.0.113.8", 1))).status == 200
    assert any(op.kind == "rate_limit" for op in operations.ended)


async def test_a_rate_limit_remembers_only_so_many():
    limiter = MemoryRateLimiter(limit=1, window=3600.0, max_keys=10)
    for n in range(1000):
        await limiter.hit(str(n))
    assert len(limiter._counts) == 10


async def test_a_window_ends():
    limiter = MemoryRateLimiter(limit=1, window=0.02)
    assert (await limiter.hit("a")).allowed
    while not (decision := await limiter.hit("a")).allowed:
        assert 0 <= decision.reset_after <= 0.02


async def test_an_ipv6_network_counts_as_one_client():
    app = make_app()
    limit = rate_limit(MemoryRateLimiter(limit=1, window=3600.0))

    @app.get("/", dependencies=[Depends(limit)])
    async def handler(): ...

    clients = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"]
    assert [(await ask(app, client=(each, 1))).status for each in clients] == [200, 429, 200]


def test_weak_tags_never_match_a_change():
    for given, version in ((['W/"7"'], 7), (['"7"'], None), (["*"], None), (['"8", W/"7"'], 7)):
        with pytest.raises(PreconditionFailedError):
            Conditional(given, []).check(version)
    Conditional(['"6", "7"'], []).check(7)
    with pytest.raises(PreconditionFailedError):
        _ = Conditional(['"6", "7"'], []).expected_version


async def by_user(request):
    return "u-1"


class ByUser:
    async def __call__(self, request):
        return "u-1"


@pytest.mark.parametrize(
    ("limiter", "options", "name"),
    [
        (100, {}, "limiter=100"),
        (MemoryRateLimiter, {}, "limiter=MemoryRateLimiter: give an instance"),
        (MemoryRateLimiter(limit=1, window=1.0), {"key": by_user}, "key="),
        (MemoryRateLimiter(limit=1, window=1.0), {"key": ByUser()}, "key="),
        (MemoryRateLimiter(limit=1, window=1.0), {"key": "user"}, "key="),
    ],
)
def test_what_would_not_limit_is_refused_at_once(limiter, options, name):
    with pytest.raises(TypeError, match=name):
        rate_limit(limiter, **options)


async def test_a_key_that_is_no_text_lets_nobody_through(log):
    app = make_app()
    key = cast("Any", lambda request: request.headers.get("x-user"))
    limit = rate_limit(MemoryRateLimiter(limit=1, window=3600.0), key=key)

    @app.get("/", dependencies=[Depends(limit)])
    async def handler(): ...

    assert (await ask(app)).status == 500
    assert any("returned a NoneType: return a str" in str(r.exc_info) for r in log)
    assert (await ask(app, headers={"X-User": "u-1"})).status == 200


@pytest.mark.parametrize("name", ["limit", "window", "max_keys"])
@pytest.mark.parametrize("value", ["100", 0, True, float("nan")])
def test_a_limit_that_is_no_number_is_refused_by_name(name, value):
    options: dict[str, Any] = {"limit": 1, "window": 1.0, name: value}
    with pytest.raises(ValueError, match=f"{name}="):
        MemoryRateLimiter(**options)
