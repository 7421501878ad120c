"""Request context for every request."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.context import bind, extract, inject


class ContextMiddleware:
    """Takes the ids and the trace from the request's headers, and puts them on the response.

    Args:
        app: the ASGI application to wrap.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_ids(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = inject([*message.get("headers", ())], raw=True)
            await send(message)

        with bind(extract(scope["headers"])):
            await self._app(scope, receive, send_with_ids)
