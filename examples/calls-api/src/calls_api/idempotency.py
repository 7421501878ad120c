"""Idempotent `POST /calls`: the same key starts the same call."""

from uuid import UUID

from redis.asyncio import Redis

from common.context import new_id

KEPT_SECONDS = 86_400


async def call_id_for(redis: Redis, key: str | None) -> UUID:
    """The id of the call to start.

    Args:
        redis: a client that decodes responses.
        key: the request's Idempotency-Key (draft-ietf-httpapi-idempotency-key-header);
            without one every request starts a call of its own.
    """
    fresh = new_id()
    if key is None:
        return UUID(fresh)
    earlier = await redis.set(f"calls:idempotency:{key}", fresh, nx=True, get=True, ex=KEPT_SECONDS)
    return UUID(str(earlier) if earlier else fresh)
