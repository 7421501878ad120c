"""W3C Trace Context through the server: parsed, continued, handed on, within its limits."""

import pytest
from api_drivers import ask
from fastapi import FastAPI

from common.api import install
from common.context import inject

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def make_app():
    app, sub = FastAPI(), FastAPI()
    install(app, service="orders")

    @app.get("/onward")
    @sub.get("/onward")
    async def onward() -> dict[str, str]:
        """What any client of the next service would send."""
        headers: dict[str, str] = {}
        inject(headers)
        return {name.lower(): value for name, value in headers.items()}

    app.mount("/sub", sub)
    return app


async def sent_on(*headers, path="/onward"):
    answer = await ask(make_app(), path=path, headers=list(headers))
    found = answer.json()
    assert found["traceparent"] == answer.header("traceparent")
    assert found["traceparent"].split("-")[1] == answer.header("x-trace-id")
    assert found["x-request-id"] == answer.header("x-request-id")
    return found


@pytest.mark.parametrize("path", ["/onward", "/sub/onward"])
@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        f"00-{TRACE_ID}-{SPAN_ID}-00",
        f"cc-{TRACE_ID}-{SPAN_ID}-01",  # a version to come: its known part counts
        f"cc-{TRACE_ID}-{SPAN_ID}-01-what-ever",
    ],
)
async def test_a_trace_goes_on(parent, path):
    found = await sent_on(("traceparent", parent), ("tracestate", "a=1,b@c=2"), path=path)
    assert found["traceparent"].split("-")[:3] == ["00", TRACE_ID, SPAN_ID]
    assert found["traceparent"][-1] == parent.split("-")[3][-1]
    assert found["tracestate"] == "a=1,b@c=2"


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [""],
        ["nonsense"],
        [f"ff-{TRACE_ID}-{SPAN_ID}-01"],
        [f"00-{TRACE_ID}-{SPAN_ID}-01-more"],
        [f"00-{TRACE_ID.upper()}-{SPAN_ID}-01"],
        [f"00-{'0' * 32}-{SPAN_ID}-01"],
        [f"00-{TRACE_ID}-{'0' * 16}-01"],
        [f"00-{TRACE_ID}-{SPAN_ID}-0"],
        [PARENT, f"00-{TRACE_ID}-{'1' * 16}-01"],
        [PARENT + "\x1b[31m"],
        ["0" * 100_000],
    ],
)
async def test_what_is_no_parent_begins_a_trace_without_its_state(parents):
    headers = [("traceparent", parent) for parent in parents]
    if parents == ["0" * 100_000]:
        headers = [("traceparent", "0" * 30_000)]  # as much as the limits let through
    found = await sent_on(*headers, ("tracestate", "a=1"))
    version, trace_id, span_id, _ = found["traceparent"].split("-")
    assert (version, len(trace_id), len(span_id)) == ("00", 32, 16)
    assert trace_id not in (TRACE_ID, "0" * 32)
    assert "tracestate" not in found


FULL = [f"k{n}={'v' * 9}" for n in range(32)]


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (["a=1", "b=2"], "a=1,b=2"),  # several headers are one list
        (["a=1,, b=2 ,"], "a=1,b=2"),
        ([",".join(FULL)], ",".join(FULL)),  # 32 members are the most (section 3.3.1.1)
        ([",".join([*FULL, "k32=v"])], None),
        (["a=1,a=2"], "a=1"),  # the first of a key is the newest
        (["A=1"], None),
        (["a"], None),
        (["a=\x01"], None),
        (["a=" + "v" * 256], "a=" + "v" * 256),
        (["a=" + "v" * 257], None),
    ],
)
async def test_a_states_limits(states, kept):
    found = await sent_on(("traceparent", PARENT), *(("tracestate", each) for each in states))
    assert found["traceparent"] == PARENT  # a bad state costs no trace
    assert found.get("tracestate") == kept


async def test_a_state_that_is_too_long_loses_its_end_and_no_half_member():
    states = [f"k{n}={'v' * 200}" for n in range(6)]
    found = await sent_on(("traceparent", PARENT), ("tracestate", ",".join(states)))
    members = found.get("tracestate", "").split(",")
    assert set(members) <= set(states)
    assert members == states[: len(members)]
    assert len(found["tracestate"]) >= 512 - 201  # at least 512 should go on (section 3.3.1.5)
