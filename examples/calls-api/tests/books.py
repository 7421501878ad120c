"""Calls that tests make, and what the broker has of them."""

import asyncio
import json

STARTED = {"phone_number": "+4930123456"}
COMPLETED = {"status": "completed", "duration_seconds": 12}


async def start(api, **headers):
    response = await api.post("/calls", json=STARTED, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()["call_id"]


async def end(api, call_id, **headers):
    return await api.post(f"/calls/{call_id}/end", json=COMPLETED, headers=headers)


async def all_published(api, bus):
    """Wait until the outbox is empty; return the calls the broker has events of, in order."""
    async with asyncio.timeout(60):
        while (books := (await api.get("/summary")).json())["waiting"]:
            await asyncio.sleep(0.05)
    assert books["undeliverable"] == 0
    return [json.loads(each.data)["subject"] for each in await stored(bus)]


async def stored(bus):
    return await bus.transport.browse("CALL", limit=1000)
