"""OpenAPI says what errors look like, and what the dependencies of routes read and answer."""

import re
from typing import Any

import pytest
from api_drivers import ask
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from pydantic import BaseModel

from common.api import (
    ApiResponse,
    ConditionalDep,
    IdempotencyKeyDep,
    Limits,
    MemoryIdempotencyStore,
    MemoryRateLimiter,
    idempotent,
    install,
    rate_limit,
    success_response,
)
from common.errors import InternalError, NotFoundError, RateLimitedError, UnauthorizedError


class Body(BaseModel):
    n: int


def documented(**options):
    app = FastAPI()
    install(app, service="orders", **options)

    @app.post("/x", responses={404: {"description": "mine"}})
    async def post(body: Body): ...

    return app


@pytest.mark.parametrize(
    ("style", "media_type", "model"),
    [
        ("envelope", "application/json", "ErrorResponse"),
        ("problem", "application/problem+json", "Problem"),
    ],
)
async def test_openapi_says_what_errors_look_like_and_they_do(style, media_type, model):
    import jsonschema

    app = documented(errors=style)
    schema = (await ask(app, path="/openapi.json")).json()
    responses = schema["paths"]["/x"]["post"]["responses"]
    reference = {"$ref": f"#/components/schemas/{model}"}
    for status in ("422", "default"):
        assert responses[status]["content"] == {media_type: {"schema": reference}}
    assert responses["404"] == {"description": "mine"}
    assert not {"HTTPValidationError", "ValidationError"} & set(schema["components"]["schemas"])
    for answer in [
        await ask(app, "POST", "/x", json_body={"n": "x"}),
        await ask(app, "GET", "/nowhere"),
    ]:
        assert answer.header("content-type") == media_type
        jsonschema.validate(answer.json(), {**reference, "components": schema["components"]})
    assert app.openapi() is app.openapi()


def test_no_reference_is_left_without_its_model():
    # FastAPI itself writes its own ValidationError over an application's.
    class ValidationError(BaseModel):
        mine: int

    app = FastAPI()
    install(app, service="orders")

    @app.get("/x/{n}")
    async def get(n: int) -> ValidationError: ...

    schema = app.openapi()
    names = set(re.findall("#/components/schemas/([^']+)'", str(schema)))
    assert "ValidationError" in names
    assert names <= set(schema["components"]["schemas"])


@pytest.mark.parametrize("style", ["envelope", "problem"])
async def test_openapi_is_right_about_every_answer(style):
    import jsonschema

    app = FastAPI()
    install(app, service="orders", errors=style, limits=Limits(max_body=50))

    @app.get("/orders/{n}")
    async def get(n: int) -> ApiResponse[Body]:
        errors = {
            1: NotFoundError(resource="order"), 2: KeyError(), 3: RateLimitedError(retry_after=1),
            4: HTTPException(418, {"a": [1]}), 5: InternalError("x"), 6: UnauthorizedError(),
        }  # fmt: skip
        if n in errors:
            raise errors[n]
        return success_response(Body(n=n), links={"self": "/orders/7"})

    @app.post("/orders")
    async def post(body: Body): ...

    schema = (await ask(app, path="/openapi.json")).json()

    def check(answer, method, path, status):
        responses = schema["paths"][path][method]["responses"]
        content = responses.get(status, responses["default"])["content"]
        described = content[answer.header("content-type")]["schema"]
        jsonschema.validate(
            answer.json(), {**described, "components": schema["components"]},
            cls=jsonschema.Draft202012Validator,
        )  # fmt: skip
        return answer.json()

    for n, status in {7: 200, 1: 404, 2: 500, 3: 429, 4: 418, 5: 500, 6: 401}.items():
        answer = await ask(app, path=f"/orders/{n}")
        assert answer.status == status
        shown = check(answer, "get", "/orders/{n}", str(status))
        # What the document requires is not all: that nothing else is sent.
        assert (
            set(shown)
            <= set(
                schema["components"]["schemas"][
                    "Problem" if style == "problem" else "ErrorResponse"
                ]["properties"]
            )
            or status == 200
        )
    check(await ask(app, path="/orders/x"), "get", "/orders/{n}", "422")
    check(await ask(app, "POST", "/orders", body=b"x" * 51), "post", "/orders", "413")
    check(await ask(app, "PUT", "/orders"), "post", "/orders", "405")


@pytest.mark.parametrize("style", ["envelope", "problem"])
def test_models_of_the_applications_own_with_such_names_are_left_alone(style):
    class Meta(BaseModel):
        mine: int

    class ErrorResponse(BaseModel):
        meta: Meta

    class Problem(BaseModel):
        mine: int

    app = FastAPI()
    install(app, service="orders", errors=style)

    @app.get("/x")
    async def x() -> ErrorResponse: ...

    @app.get("/y")
    async def y() -> Problem: ...

    schemas = app.openapi()["components"]["schemas"]
    for name, properties in {
        "Meta": {"mine"}, "Problem": {"mine"}, "ErrorResponse": {"meta"}
    }.items():  # fmt: skip
        assert set(schemas[name]["properties"]) == properties
    [content] = app.openapi()["paths"]["/x"]["get"]["responses"]["default"]["content"].values()
    described = schemas[content["schema"]["$ref"].rpartition("/")[2]]
    if style == "problem":
        assert "detail" in described["properties"]
    else:
        meta = schemas[described["properties"]["meta"]["$ref"].rpartition("/")[2]]
        assert "request_id" in meta["properties"]


def test_the_documents_models_are_not_there_twice():
    app = FastAPI()
    install(app, service="orders")

    @app.get("/x/{n}")
    async def get(n: int) -> ApiResponse[Body]: ...

    assert set(app.openapi()["components"]["schemas"]) == {
        "ApiResponse_Body_", "Body", "ErrorBody", "ErrorResponse", "Meta", "PageInfo",
    }  # fmt: skip


def operation_of(app, path="/x", method="post"):
    return app.openapi()["paths"][path][method]


def headers_of(operation):
    found = operation.get("parameters", ())
    return {p["name"]: p["required"] for p in found if p["in"] == "header"}


@pytest.mark.parametrize("style", ["envelope", "problem"])
def test_openapi_names_the_headers_and_statuses_of_dependencies(style):
    app, router = FastAPI(), APIRouter(prefix="/v1")
    install(app, service="orders", errors=style, idempotency=MemoryIdempotencyStore())
    limited = Depends(rate_limit(MemoryRateLimiter(limit=1, window=1.0)))

    def inside(key: IdempotencyKeyDep): ...

    @app.post("/x", dependencies=[Depends(idempotent(required=True)), limited])
    @router.post("/x/{n}", dependencies=[Depends(idempotent())])
    async def post(n: int = 1): ...

    @app.put("/x", dependencies=[Depends(inside)])
    async def put(condition: ConditionalDep): ...

    @app.get("/x", responses={304: {"description": "mine"}})
    async def get(condition: ConditionalDep): ...

    @app.delete("/x", dependencies=[limited])
    async def delete(): ...

    app.include_router(router)
    one = operation_of(app)
    assert headers_of(one) == {"Idempotency-Key": True}
    assert {"400", "409", "422", "429", "default"} <= set(one["responses"])
    model = "Problem" if style == "problem" else "ErrorResponse"
    [content] = one["responses"]["409"]["content"].values()
    assert content["schema"]["$ref"].endswith(model)
    included = operation_of(app, "/v1/x/{n}")
    assert headers_of(included) == {"Idempotency-Key": False}
    assert [p["name"] for p in included["parameters"]] == ["n", "Idempotency-Key"]

    change, read = operation_of(app, method="put"), operation_of(app, method="get")
    expected = ["Idempotency-Key", "If-Match", "If-None-Match"]
    assert headers_of(change) == dict.fromkeys(expected, False)
    assert {"400", "412", "428"} <= set(change["responses"])
    assert headers_of(read) == {"If-None-Match": False}
    assert read["responses"]["304"] == {"description": "mine"}
    assert not {"400", "412", "428"} & set(read["responses"])
    assert "parameters" not in operation_of(app, method="delete")


def test_openapi_leaves_the_applications_description_of_a_header():
    app = FastAPI()
    install(app, service="orders", idempotency=MemoryIdempotencyStore())
    extra: dict[str, Any] = {
        "parameters": [
            {"name": "idempotency-key", "in": "header", "description": "mine"},
            {"name": "X-Other", "in": "header", "required": True},
        ]
    }

    @app.post("/x", dependencies=[Depends(idempotent(required=True))], openapi_extra=extra)
    async def post(): ...

    operation = operation_of(app)
    assert headers_of(operation) == {"idempotency-key": True, "X-Other": True}
    assert operation["parameters"][0]["description"] == "mine"
    assert app.openapi() is app.openapi()
