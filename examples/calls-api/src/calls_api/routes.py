"""The HTTP interface."""

import logging
from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response, status
from fastapi.routing import APIRoute
from redis.asyncio import Redis

from calls_api.idempotency import call_id_for
from calls_api.models import CallView, EndCall, ReportTranscript, StartCall, Summary
from calls_api.store import CallStore
from calls_api.tables import Call
from common.api import (
    ApiResponse,
    ConditionalDep,
    CursorDep,
    HTTPError,
    IdempotencyKeyDep,
    cursor_response,
    etag,
    success_response,
)
from common.domain.calls import CallStatus

logger = logging.getLogger(__name__)

router = APIRouter()


def _store(request: Request) -> CallStore:
    return cast("CallStore", request.app.state.store)


def _redis(request: Request) -> Redis:
    return cast("Redis", request.app.state.redis)


def operation_id(route: APIRoute) -> str:
    """Name an operation in OpenAPI as its function is named."""
    return route.name


def _links(*operations: str) -> dict[int | str, dict[str, Any]]:
    """Document what can be done next with the call that an answer shows."""
    links = {
        name: {"operationId": name, "parameters": {"call_id": "$response.body#/data/call_id"}}
        for name in operations
    }
    return {status.HTTP_201_CREATED: {"links": links}}


StoreDep = Annotated[CallStore, Depends(_store)]
RedisDep = Annotated[Redis, Depends(_redis)]


@router.post(
    "/calls",
    status_code=status.HTTP_201_CREATED,
    responses=_links("get_call", "end_call", "report_transcript"),
)
async def start_call(
    body: StartCall, store: StoreDep, redis: RedisDep, key: IdempotencyKeyDep, response: Response
) -> ApiResponse[CallView]:
    """Start a call; again with the same `Idempotency-Key`, the same call."""
    call = await store.start(await call_id_for(redis, key), body.phone_number)
    if call.phone_number != body.phone_number:
        raise HTTPError(
            status.HTTP_422_UNPROCESSABLE_CONTENT,
            "IDEMPOTENCY_KEY_REUSED",
            "The key was used for another request: make a new one for each",
        )
    logger.info("call %s started", call.call_id)
    return _show(call, response)


@router.post("/calls/{call_id}/end")
async def end_call(
    call_id: UUID, body: EndCall, store: StoreDep, condition: ConditionalDep, response: Response
) -> ApiResponse[CallView]:
    """Say how a call ended, once; with `If-Match`, only if nothing else was said meanwhile."""
    call = await store.end(call_id, body, check=condition.check)
    logger.info("call %s ended", call_id)
    return _show(call, response)


@router.put("/calls/{call_id}/transcript")
async def report_transcript(
    call_id: UUID, body: ReportTranscript, store: StoreDep, response: Response
) -> ApiResponse[CallView]:
    """Say which record a call's processing has left; again with the same id, nothing changes."""
    call = await store.processed(call_id, body.session_id)
    logger.info("call %s is processed", call_id)
    return _show(call, response)


@router.get("/calls/{call_id}")
async def get_call(
    call_id: UUID, store: StoreDep, condition: ConditionalDep, response: Response
) -> ApiResponse[CallView]:
    """Show a call; with `If-None-Match`, only if it has changed."""
    call = await store.get(call_id)
    condition.not_modified(call.version)
    return _show(call, response)


@router.get("/calls")
async def list_calls(
    store: StoreDep,
    cursor: CursorDep,
    status: Annotated[CallStatus | None, Query()] = None,
    processed: Annotated[bool | None, Query()] = None,
) -> ApiResponse[list[CallView]]:
    """List calls in the order in which they started.

    A cursor goes with the `status` and `processed` of the page it was on.
    """
    page = await store.page(
        status=status, processed=processed, after=cursor.value, limit=cursor.limit
    )
    calls = [CallView.of(call) for call in page]
    return cursor_response(calls, cursor=cursor, next_cursor=page.next)


@router.get("/summary")
async def summary(store: StoreDep) -> ApiResponse[Summary]:
    """Count the calls at each step."""
    return success_response(await store.summary())


def _show(call: Call, response: Response) -> ApiResponse[CallView]:
    response.headers["ETag"] = etag(call.version)
    return success_response(CallView.of(call))
