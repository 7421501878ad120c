"""Calls that tests make, and what the broker has of them."""

import asyncio
import json

STARTED = {"phone_number": "+4930123456"}
COMPLETED = {"status": "completed", "duration_seconds": 12}


async def start(api, **headers):
    response = await api.post("/calls", json=STARTED, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()["data"]["call_id"]


async def end(api, call_id, **headers):
    return await api.post(f"/calls/{call_id}/end", json=COMPLETED, headers=headers)


async def all_published(api, bus):
    """Wait until the outbox is empty; return the calls the broker has events of, in order."""
    async with asyncio.timeout(60):
        while (books := await summary(api))["waiting"]:
            await asyncio.sleep(0.05)
    assert books["undeliverable"] == 0
    return [json.loads(each.data)["subject"] for each in await stored(bus)]


async def summary(api):
    return (await api.get("/summary")).raise_for_status().json()["data"]


async def call(api, call_id):
    return (await api.get(f"/calls/{call_id}")).raise_for_status().json()["data"]


async def report(api, call_id, session_id, **headers):
    body = {"session_id": str(session_id)}
    return await api.put(f"/calls/{call_id}/transcript", json=body, headers=headers)


async def pages(api, **query):
    """All calls, page by page."""
    found = []
    while True:
        page = (await api.get("/calls", params=query)).raise_for_status().json()
        found += page["data"]
        if (cursor := page["pagination"]["next_cursor"]) is None:
            assert "next" not in page["links"]
            return found
        assert f"cursor={cursor}" in page["links"]["next"]
        query["cursor"] = cursor


async def stored(bus):
    return await bus.transport.browse("CALL", limit=1000)
