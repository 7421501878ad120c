"""What retries and the breaker cost when all is well, and a call against bare httpx."""

# The peers are in the bench group, which `make check` does without.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import httpx
import tenacity

from benchmarks._harness import Bar, Group
from common.clients import Breaker, Retry, ServiceClient, ServiceKey, retry
from common.context import Context, bind, new_trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# In a process of its own, so that only the client's time is measured.
SERVER = """
import asyncio
BODY = b'{"id": 1, "name": "Ada", "balance": 12.5}'
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n"
ANSWER = HEAD % len(BODY) + BODY
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(ANSWER)
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def work():
    pass


def calls(function):
    async def repeat(number):
        for _ in range(number):
            await function()

    return repeat


def happy_path() -> Group:
    breaker = Breaker("work")

    tenacious = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        retry=tenacity.retry_if_exception_type((TimeoutError, ConnectionError)),
        reraise=True,
    )(work)

    return Group(
        name="all is well",
        number=2_000,
        contenders={
            "bare coroutine": calls(work),
            "retry": calls(retry(Retry())(work)),
            "breaker": calls(breaker(work)),
            "retry and breaker": calls(retry(Retry())(breaker(work))),
            "tenacity": calls(tenacious),
        },
        # None of them waits for anything: what the clock says beyond this is the machine's load.
        bars=[
            Bar(contender="retry and breaker", against="bare coroutine", extra=5e-6, of="cpu"),
            Bar(contender="retry", against="tenacity", ratio=0.1, of="cpu"),
            Bar(contender="retry and breaker", against="tenacity", ratio=0.1, of="cpu"),
        ],
    )


async def groups() -> AsyncIterator[Group]:
    yield happy_path()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout
    port = int(await server.stdout.readline())
    url = f"http://127.0.0.1:{port}"
    try:
        async with (
            httpx.AsyncClient(base_url=url, headers={"X-API-Key": "id.secret"}) as bare,
            ServiceClient("accounts", base_url=url, auth=ServiceKey("id.secret")) as client,
        ):
            # All that a client does: ids, trace, deadline, retry, bulkhead, breaker, size cap.
            context = Context(request_id="r-1", correlation_id="c-1", trace=new_trace())

            async def ours(number):
                with bind(context):
                    for _ in range(number):
                        (await client.get("/accounts/{id}", path={"id": 1})).json()

            async def theirs(number):
                for _ in range(number):
                    (await bare.get("/accounts/1")).json()

            yield Group(
                name="GET on loopback",
                number=100,
                contenders={"httpx": theirs, "ServiceClient": ours},
                bars=[Bar(contender="ServiceClient", against="httpx", ratio=1.1, of="cpu")],
            )
    finally:
        server.terminate()
        await server.wait()
