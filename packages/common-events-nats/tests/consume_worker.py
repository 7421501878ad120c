"""A process that consumes, for tests which kill it: prints what it gets, settles the first few."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

from nats_consuming import connected


async def main(url: str, acks: int, settings: dict[str, Any]) -> None:
    async with connected(url) as nats:
        consumer = await nats.consume(**settings)
        print("ready", flush=True)  # noqa: T201
        while batch := await consumer.receive():
            for delivery in batch:
                if acks > 0:
                    acks -= 1
                    await delivery.ack()
                print(delivery.sequence, delivery.attempt, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
