"""Small applications under the stack."""

from fastapi import FastAPI, Request

from common.api import install


def make_app(**options):
    app = FastAPI()
    install(app, service="orders", **options)

    @app.post("/echo")
    async def echo(request: Request):
        body = await request.body()
        return {"size": len(body), "head": body[:10].decode("latin-1")}

    @app.post("/typed")
    async def typed(body: dict[str, int]):
        return body

    @app.get("/ok")
    async def ok():
        return "ok"

    return app


def code(answer):
    return answer.status, answer.json()["error"]["code"]
