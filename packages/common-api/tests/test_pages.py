"""Pages and their links."""

from urllib.parse import parse_qs, urlsplit

import pytest
from api_drivers import ask
from fastapi import FastAPI
from pydantic import BaseModel

from common.api import (
    ApiResponse,
    CursorDep,
    PaginationDep,
    cursor_response,
    install,
    paginated_response,
    success_response,
)


class Order(BaseModel):
    id: int


def make_app(**options):
    app = FastAPI()
    install(app, service="orders", **options)
    total = 95

    @app.get("/orders")
    async def orders(page: PaginationDep) -> ApiResponse[list[Order]]:
        found = range(page.offset, min(page.offset + page.limit, total))
        return paginated_response([Order(id=n) for n in found], page=page, total=total)

    @app.get("/feed")
    async def feed(cursor: CursorDep) -> ApiResponse[list[Order]]:
        following = None if cursor.value == "c2" else "c2"
        return cursor_response([Order(id=1)], cursor=cursor, next_cursor=following)

    @app.get("/orders/{n}")
    async def order(n: int) -> ApiResponse[Order]:
        return success_response(Order(id=n), links={"self": f"/orders/{n}"})

    return app


async def test_the_envelope_has_all_members_and_the_ids():
    answer = await ask(make_app(), path="/orders/7", headers={"X-Request-ID": "r-1"})
    shown = answer.json()
    assert shown["data"] == {"id": 7}
    assert shown["links"] == {"self": "/orders/7"}
    assert (shown["error"], shown["pagination"]) == (None, None)
    assert shown["meta"]["request_id"] == "r-1"
    assert shown["meta"]["service"] == "orders"
    assert shown["meta"]["timestamp"].endswith("Z")


async def test_defaults_are_the_first_fifty():
    shown = (await ask(make_app(), path="/orders")).json()
    assert [len(shown["data"]), shown["data"][0]] == [50, {"id": 0}]
    assert shown["pagination"] == {
        "page": 1, "limit": 50, "offset": 0, "total": 95, "pages": 2, "has_next": True,
        "next_cursor": None,
    }  # fmt: skip


async def test_following_next_leads_through_all_once():
    app, path, seen = make_app(), "/orders?limit=10&status=open&status=new&q=a%26b", []
    while path:
        shown = (await ask(app, path=path)).json()
        seen += [order["id"] for order in shown["data"]]
        path = shown["links"].get("next", "").removeprefix("http://api.test")
        if path:
            query = parse_qs(urlsplit(path).query)
            assert (query["status"], query["q"]) == (["open", "new"], ["a&b"])
    assert seen == list(range(95))


@pytest.mark.parametrize(
    ("query", "links"),
    [
        (
            "page=9&offset=0&limit=50",
            {"first": "offset=0", "last": "offset=50", "next": "offset=50"},
        ),
        ("page=1&limit=50", {"first": "page=1", "last": "page=2", "next": "page=2"}),
        ("page=9&limit=50", {"first": "page=1", "last": "page=2", "prev": "page=2"}),
        ("page=2&limit=50", {"first": "page=1", "last": "page=2", "prev": "page=1"}),
        (
            "offset=30&limit=50",
            {"first": "offset=0", "prev": "offset=0", "next": "offset=80", "last": "offset=50"},
        ),
    ],
)
async def test_links_lead_to_the_neighbours(query, links):
    shown = (await ask(make_app(), path=f"/orders?{query}")).json()["links"]
    assert {
        name: link.split("?")[1].split("&")[0] for name, link in shown.items() if name != "self"
    } == links


@pytest.mark.parametrize(
    "query",
    [
        "page=0", "page=-1", "page=x", "limit=0", "limit=1001", "offset=-1",
        "page=99999999999999999999", "offset=9999999999999999999999", "limit=1e3",
    ],
)  # fmt: skip
async def test_impossible_pages_are_refused(query):
    answer = await ask(make_app(), path=f"/orders?{query}")
    assert answer.status == 422
    assert answer.json()["error"]["code"] == "VALIDATION_ERROR"


async def test_cursors_keep_the_query_and_end():
    shown = (await ask(make_app(), path="/feed?status=open&limit=5")).json()
    assert shown["links"]["next"] == "http://api.test/feed?status=open&cursor=c2&limit=5"
    assert shown["pagination"]["next_cursor"] == "c2"
    last = (await ask(make_app(), path="/feed?cursor=c2")).json()
    assert "next" not in last["links"]
    assert last["pagination"]["has_next"] is False
    assert (await ask(make_app(), path="/feed?cursor=" + "c" * 4097)).status == 422


async def test_links_alone_know_the_next_page_by_the_total():
    app = FastAPI()

    @app.get("/")
    async def links(page: PaginationDep):
        return [
            set(links)
            for links in (
                page.links(total=95),
                page.links(total=50),
                page.links(),
                page.links(has_next=True),
            )
        ]

    always = {"self", "first"}
    found = (await ask(app)).json()
    assert [set(each) for each in found] == [
        always | {"last", "next"},
        always | {"last"},
        always,
        always | {"next"},
    ]


PROXY = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example.com"}


@pytest.mark.parametrize(
    ("proxies", "headers", "more", "start"),
    [
        ([], {}, {}, "http://api.test/orders?"),
        ([], PROXY, {}, "http://api.test/orders?"),
        (["203.0.113.7"], PROXY, {}, "https://shop.example.com/orders?"),
        (["203.0.113.7"], {"X-Forwarded-Host": "evil.test, shop.example.com"}, {}, "http://shop.example.com/orders?"),
        (["203.0.113.7"], {"X-Forwarded-Host": "a/../b", "X-Forwarded-Proto": "javascript"}, {}, "http://api.test/orders?"),
        ([], {"host": "api.test/evil?"}, {}, "/orders?"),
        ([], [("host", "a.test"), ("host", "b.test")], {}, "/orders?"),
        ([], {}, {"root_path": "/shop"}, "http://api.test/shop/orders?"),
    ],
)  # fmt: skip
async def test_links_lead_where_the_client_came_from(proxies, headers, more, start):
    answer = await ask(make_app(proxies=proxies), path="/orders", headers=headers, **more)
    assert answer.json()["links"]["next"].startswith(start)


async def test_links_know_mounts_and_prefixes_that_are_not_cut_off():
    outer = FastAPI()
    install(outer, service="orders")
    outer.mount("/v1", make_app())
    answer = await ask(outer, path="/shop/v1/orders", root_path="/shop")
    assert answer.json()["links"]["next"].startswith("http://api.test/shop/v1/orders?")


async def test_openapi_describes_the_envelope():
    schema = make_app().openapi()
    response = schema["paths"]["/orders"]["get"]["responses"]["200"]
    name = response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert schema["components"]["schemas"][name]["properties"]["data"]["anyOf"][0]["items"]
