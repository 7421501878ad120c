"""Misconfiguration fails at construction, naming the field and the fix."""

from functools import partial
from typing import Any

import pytest

from common.clients import ClientConfig, Limits, ServiceClient, ServiceKey, ServiceToken
from common.errors import InternalError


@pytest.mark.parametrize(
    "url",
    [
        "http://billing",
        "https://billing.internal:8443/api/v1/",
        "http://127.0.0.1:80",
        "http://[::1]:80/a",
        "http://" + "a" * 63 + ".internal.",
        "http://billing_api:1/",
    ],
)
def test_sound_base_urls(url):
    import httpx

    from common.clients._exchange import Exchange

    config = ClientConfig(service="billing", base_url=url)
    Exchange(config, httpx.MockTransport(lambda request: httpx.Response(200)))


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        "billing",
        "billing:8080",
        "//billing",
        "/api",
        "ftp://billing",
        "http://",
        "http:///api",
        "http://user:canary@billing",
        "http://canary@billing",
        "http://billing?token=canary",
        "http://billing#canary",
        "http://billing/a/../b",
        "http://billing/%2e%2e/b",
        "http://billing/a%2Fb",
        "http://billing:99999",
        "http://billing:0",
        "http://billing:port",
        "http://bill ing",
        "http://billing\r\nX: y",
        "http://bil\\ling",
        "http://a..b",
        "http://" + "a" * 64 + ".internal",
        "http://-a.internal",
        "http://" + "a." * 130,
        "http://[::1",
        "http://bücher",
    ],
)
def test_a_base_url_that_cannot_work_is_refused_and_secrets_are_not_shown(url):
    with pytest.raises(ValueError, match="base_url") as raised:
        ClientConfig(service="billing", base_url=url)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("service", "bill ing"),
        ("service", ""),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("timeout", "10"),
        ("try_timeout", -1),
        ("connect_timeout", 0),
        ("follow_redirects", -1),
        ("follow_redirects", True),
        ("limits", {"max_concurrency": 3}),
    ],
)
def test_every_field_is_checked(field, value):
    given: dict[str, Any] = {"service": "b", "base_url": "http://b", field: value}
    with pytest.raises(ValueError, match=field):
        ClientConfig(**given)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_concurrency", 0),
        ("max_queue", -1),
        ("max_response_bytes", 0),
        ("max_idle_connections", -1),
        ("idle_seconds", -1),
    ],
)
def test_every_limit_is_checked(field, value):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})


@pytest.mark.parametrize("secret", ["", "canary\r\nX: y", "canary canary", "canäry", None, 7])
def test_secrets_that_fit_into_no_header_are_refused_and_not_shown(secret):
    for make in (ServiceKey, ServiceToken):
        with pytest.raises(ValueError) as raised:
            make(secret)
        assert "canary" not in str(raised.value)


def test_secrets_are_not_in_the_repr():
    assert repr(ServiceKey("canary")) == "ServiceKey(header='X-API-Key')"
    assert repr(ServiceToken("canary")) == "ServiceToken()"
    for header in ("X-Key:", "Host", "content-length", "", None):
        with pytest.raises(ValueError, match="header"):
            ServiceKey("key", header=header)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_client_is_made_from_a_config_and_from_nothing_that_looks_like_one():
    given: Any = {"service": "billing", "base_url": "http://b"}
    with pytest.raises(ValueError, match=r"config is dict: give ClientConfig\(\.\.\.\)"):
        ServiceClient.from_config(given)


async def test_a_token_function_may_be_plain_or_async():
    async def fresh():
        return "async"

    tokens = [ServiceToken(lambda: "plain"), ServiceToken(fresh), ServiceToken(partial(fresh))]
    fields = [await each.header_field() for each in tokens]
    assert fields == [("Authorization", f"Bearer {each}") for each in ("plain", "async", "async")]
    with pytest.raises(InternalError):
        await ServiceToken(lambda: 7).header_field()  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]


async def test_a_token_function_must_return_a_token():
    async def bad():
        return "canary\r\n"

    with pytest.raises(InternalError) as raised:
        await ServiceToken(bad).header_field()
    assert "canary" not in repr(raised.value)
