"""Host names that are answered."""

import pytest
from api_apps import code, make_app
from api_drivers import ask, scope_of, talk


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("host", "api.example.com")], 200),
        ([("host", "API.example.com:8443")], 200),
        ([("host", "api.example.com.")], 200),
        ([("host", "a.b.example.org")], 200),
        ([("host", "example.org")], 400),
        ([("host", "evil.test")], 400),
        ([("host", "api.example.com.evil.test")], 400),
        ([("host", "evilexample.org")], 400),
        ([("host", "api.example.com@evil.test")], 400),
        ([("host", "api.example.com/x")], 400),
        ([("host", "")], 400),
        ([("host", "api.example.com"), ("host", "evil.test")], 400),
        ([("host", "api.example.com"), ("x-forwarded-host", "evil.test")], 400),
        ([("host", "10.0.0.1"), ("x-forwarded-host", "api.example.com")], 400),
    ],
)
async def test_only_known_hosts_are_answered(headers, status):
    app = make_app(hosts=["api.example.com", "*.example.org"], proxies=["203.0.113.7"])
    answer = await ask(app, path="/ok", headers=headers)
    assert answer.status == status
    if status == 400:
        assert code(answer) == (400, "HOST_INVALID")
        assert b"evil" not in answer.body


@pytest.mark.parametrize("hosts", [[], ["*"], ["a*.b"], ["https://a.test"], ["a.test:80"]])
def test_hosts_that_are_none(hosts):
    with pytest.raises(ValueError, match="host"):
        make_app(hosts=hosts)


async def test_websockets_are_answered_under_known_hosts_only():
    scope = scope_of(path="/ws", kind="websocket", headers=[(b"host", b"evil.test")])
    app = make_app(hosts=["api.example.com"])
    answer = await talk(app, scope, [{"type": "websocket.connect"}])
    assert code(answer) == (400, "HOST_INVALID")
