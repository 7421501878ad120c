"""Redirects: off by default, and nothing that matters goes to another host."""

from urllib.parse import urlsplit

import httpx
import pytest

from common.clients import ServiceKey, ServiceToken
from common.clients._redirect import Hop, follow
from common.clients._request import Outgoing
from common.context import Context, bind, new_trace
from common.errors import ServiceUnavailableError, UpstreamServiceError

OUTGOING = Outgoing("GET", "/a", urlsplit("http://billing"), {})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_errors_by_default(upstream, other, connect, reply_with, status):
    upstream.reply = lambda request: reply_with(status, location=f"{other.url}/canary")
    async with connect() as client:
        with pytest.raises(UpstreamServiceError, match="redirects") as raised:
            await client.get("/a")
    assert (len(upstream.requests), other.requests) == (1, [])
    assert (raised.value.upstream_status, raised.value.endpoint) == (status, "/a")
    assert "billing, GET /a: it redirects" in str(raised.value)
    assert "canary" not in f"{raised.value}{raised.value.to_dict()}"


async def test_within_the_same_origin_everything_goes_along(upstream, connect, reply_with):
    upstream.reply = lambda request: (
        reply_with(307, location="/b?x=1#f") if request.target == "/a" else reply_with(200)
    )
    async with connect(auth=ServiceKey("k"), follow_redirects=1) as client:
        await client.put("/a", json={"x": 1}, headers={"X-Mine": "m"})
    first, second = upstream.requests
    assert (second.method, second.target, second.body) == ("PUT", "/b?x=1", first.body)
    assert second.headers == first.headers
    assert upstream.accepted == 1


async def test_another_origin_gets_no_credentials_cookies_ids_or_own_headers(
    upstream, other, connect, reply_with
):
    upstream.reply = lambda request: reply_with(
        302, location=f"{other.url}/b", set_cookie="session=canary"
    )
    for auth in (
        ServiceKey("canary"),
        ServiceToken("canary"),
        ServiceKey("canary", header="X-Own"),
    ):
        async with connect(auth=auth, follow_redirects=3) as client:
            with bind(Context(request_id="r-1", correlation_id="c-1", trace=new_trace())):
                await client.get(
                    "/a",
                    headers={"Cookie": "canary", "X-Secret": "canary", "Accept": "text/plain"},
                )
    for request in other.requests:
        assert set(request.headers) == {"host", "accept", "accept-encoding", "user-agent"}
        assert request.header("host") == other.url.removeprefix("http://")
    assert len(other.requests) == 3


async def test_no_cookie_is_ever_kept(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(200, set_cookie="session=1")
    async with connect() as client:
        await client.get("/a")
        await client.get("/a")
    assert "cookie" not in upstream.requests[1].headers


@pytest.mark.parametrize("status", [307, 308])
async def test_another_host_never_gets_a_body(upstream, other, connect, reply_with, status):
    upstream.reply = lambda request: reply_with(status, location=other.url)
    async with connect(follow_redirects=3) as client:
        with pytest.raises(UpstreamServiceError, match="body"):
            await client.put("/a", json={"x": 1})
        with pytest.raises(UpstreamServiceError, match="DELETE to another host"):
            await client.delete("/a")
    assert other.requests == []


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (301, "PUT", "PUT"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
async def test_the_method_becomes_what_the_rfc_says(
    upstream, connect, reply_with, status, method, becomes
):
    upstream.reply = lambda request: (
        reply_with(status, location="b") if request.target == "/a" else reply_with(200)
    )
    async with connect(follow_redirects=1) as client:
        body = {} if method == "HEAD" else {"json": 1}
        await client.request(method, "/a", **body)
    second = upstream.requests[1]
    assert (second.method, second.target) == (becomes, "/b")
    kept = becomes == method and method != "HEAD"
    assert second.body == (b"1" if kept else b"")
    assert ("content-type" in second.headers) == kept


async def test_a_body_that_was_an_iterator_is_not_sent_again(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(307, location="/b")

    async def chunks():
        yield b"once"

    async with connect(follow_redirects=1) as client:
        with pytest.raises(UpstreamServiceError, match="body again"):
            await client.put("/a", content=chunks())
    assert len(upstream.requests) == 1


async def test_what_was_done_before_a_redirect_is_not_done_again(
    upstream, other, connect, reply_with
):
    upstream.reply = lambda request: reply_with(303, location=other.url)
    await other.stop()
    async with connect(follow_redirects=1) as client:
        with pytest.raises(ServiceUnavailableError):
            await client.post("/a", json=1)
    assert len(upstream.requests) == 1


async def test_a_loop_of_redirects_ends(upstream, connect, reply_with):
    upstream.reply = lambda request: reply_with(302, location="/a")
    async with connect(follow_redirects=3) as client:
        with pytest.raises(UpstreamServiceError, match="follow_redirects is 3"):
            await client.get("/a")
    assert len(upstream.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "file:///etc/passwd",
        "gopher://x",
        "http://user:pw@other/",
        "http://[",
        "javascript:alert(1)",
        "http://x:99999/",
    ],
)
def test_places_nobody_should_go_to_are_refused(location):
    hop = Hop("GET", httpx.URL("http://billing/a"), [], content=False)
    with pytest.raises(UpstreamServiceError) as raised:
        follow("billing", OUTGOING, hop, 302, location)
    assert not location or location not in str(raised.value)


def test_no_way_leads_from_https_to_http():
    hop = Hop("GET", httpx.URL("https://billing/a"), [], content=False)
    with pytest.raises(UpstreamServiceError, match="https to http"):
        follow("billing", OUTGOING, hop, 302, "http://billing/a")


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://billing:443/b", True),
        ("https://BILLING/b", True),
        ("//billing/b", True),
        ("https://billing:8443/b", False),
        ("https://billing.evil/b", False),
        ("https://evil/billing", False),
        ("//evil", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, same):
    hop = Hop("GET", httpx.URL("https://billing/a"), [("Authorization", "x")], content=False)
    assert bool(follow("billing", OUTGOING, hop, 302, url).headers) is same
