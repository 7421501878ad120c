"""Idempotent `POST /calls`: the same key starts the same call."""

from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError as RedisClientError

from common.context import new_id
from common.errors import RedisError, map_errors

KEPT_SECONDS = 86_400


async def call_id_for(redis: Redis, key: str | None) -> UUID:
    """The id of the call to start.

    The id and not the answer is kept under the key: whenever this process dies, the repetition
    finds the call that was started, or starts it.

    Args:
        redis: a client that decodes responses.
        key: the request's Idempotency-Key (draft-ietf-httpapi-idempotency-key-header);
            without one every request starts a call of its own.

    Raises:
        RedisError: Redis does not answer.
    """
    fresh = new_id()
    if key is None:
        return UUID(fresh)
    with map_errors({RedisClientError: RedisError}):
        earlier = await redis.set(
            f"calls:idempotency:{key}", fresh, nx=True, get=True, ex=KEPT_SECONDS
        )
    return UUID(str(earlier) if earlier else fresh)
