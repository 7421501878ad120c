"""Makes calls over HTTP, as a careful client would."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

import httpx

from demo.workload import PlannedCall

PATIENCE_SECONDS = 90.0
"""More than a service that was killed may take until it is ready again."""
CONFLICT = 409


@dataclass
class Tally:
    """What the client saw."""

    created: int = 0
    ended: int = 0
    refused: list[str] = field(default_factory=list[str])


class CallsClient:
    """Starts and ends calls; a request that may have been lost is sent again.

    Args:
        http: a client whose base URL is the service's.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.tally = Tally()

    async def make(self, planned: PlannedCall) -> None:
        """Start the call and end it as planned."""
        started = await self._send(
            "/calls", {"phone_number": planned.phone_number}, key=str(uuid4())
        )
        if started.is_error:
            self.tally.refused.append(_refusal(started))
            return
        self.tally.created += 1
        end = planned.model_dump(mode="json", exclude={"phone_number"})
        ended = await self._send(f"/calls/{started.json()['data']['call_id']}/end", end)
        # 409: an earlier attempt ended the call, and its answer was lost.
        if ended.is_error and ended.status_code != CONFLICT:
            self.tally.refused.append(_refusal(ended))
            return
        self.tally.ended += 1

    async def summary(self) -> dict[str, int]:
        """The service's books."""
        answer = (await self._http.get("/summary")).raise_for_status()
        return cast("dict[str, int]", answer.json()["data"])

    async def calls(self) -> list[dict[str, str | None]]:
        """All calls, page by page."""
        found: list[dict[str, str | None]] = []
        cursor: str | None = None
        while True:
            query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
            page = (await self._http.get("/calls", params=query)).raise_for_status().json()
            found += page["data"]
            cursor = page["pagination"]["next_cursor"]
            if cursor is None:
                return found

    async def _send(self, path: str, body: object, *, key: str | None = None) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        give_up = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        pause = 0.05
        while True:
            try:
                response = await self._http.post(path, json=body, headers=headers)
                if not response.is_server_error:
                    return response
                problem: Exception = httpx.HTTPStatusError(
                    f"{path} answered {response.status_code}",
                    request=response.request,
                    response=response,
                )
            except httpx.TransportError as error:
                problem = error
            if asyncio.get_running_loop().time() > give_up:
                raise problem
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, 2.0)


def _refusal(response: httpx.Response) -> str:
    return f"{response.request.url.path}: {response.status_code} {response.text[:200]}"
