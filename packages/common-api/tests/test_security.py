"""What browsers are told."""

import pytest
from api_apps import make_app
from api_drivers import ask

from common.api import Cors


async def test_security_headers_are_on_everything_but_policy_not_on_pages():
    app = make_app(proxies=["203.0.113.7"])
    for path in ("/ok", "/nowhere", "/livez"):
        answer = await ask(app, path=path)
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("content-security-policy").startswith("default-src 'none'")
        assert answer.header("strict-transport-security") is None
    assert (await ask(app, path="/docs")).header("content-security-policy") is None
    secure = await ask(app, path="/ok", headers={"X-Forwarded-Proto": "https"})
    assert secure.header("strict-transport-security") == "max-age=31536000"
    assert (await ask(make_app(security_headers=False), path="/ok")).header(
        "x-frame-options"
    ) is None


async def test_pages_of_allowed_origins_can_read_errors_too():
    app = make_app(cors=Cors(origins=["https://app.example.com"], credentials=True))

    @app.get("/crash")
    async def crash():
        raise KeyError

    for path in ("/ok", "/crash", "/nowhere"):
        answer = await ask(app, path=path, headers={"Origin": "https://app.example.com"})
        assert answer.header("access-control-allow-origin") == "https://app.example.com"
        assert "X-Request-ID" in answer.header("access-control-expose-headers")
        other = await ask(app, path=path, headers={"Origin": "https://evil.test"})
        assert other.header("access-control-allow-origin") is None
    preflight = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT"}
    assert (await ask(app, "OPTIONS", "/ok", headers=preflight)).header("x-request-id")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"origins": ["*"], "credentials": True}, ValueError),
        ({"origins": ["app.example.com"]}, ValueError),
        ({"origins": ["https://app.example.com/"]}, ValueError),
        ({"origins": "https://app.example.com"}, TypeError),
    ],
)
def test_cors_that_would_not_do_what_it_says(options, error):
    with pytest.raises(error):
        Cors(**options)
