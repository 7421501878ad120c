"""The template of the route that answered, which is what may become a metric's label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator, MutableMapping

    from starlette.routing import BaseRoute

UNMATCHED = "unmatched"
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)


def known_method(method: str) -> str:
    """Return the method, ``_OTHER`` if it is invented (OpenTelemetry's convention for HTTP).

    Example:
        >>> known_method("GET"), known_method("PWN")
        ('GET', '_OTHER')
    """
    return method if method in _METHODS else "_OTHER"


def route_path(scope: MutableMapping[str, Any]) -> str:
    """Return the path below ``root_path``, which is what routes are matched with."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root) if root else path
    return rest if rest.startswith("/") or not rest else path


def route_template(scope: MutableMapping[str, Any], *, app: Any, root_path: str) -> str:
    """Return the template of the route that a request took, with the paths of mounts in front.

    It never contains anything of the request's path, so that there are only as many values as
    there are routes.

    Args:
        scope: After the request was routed.
        app: The outermost application, whose routes are looked through for the mounts.
        root_path: The scope's ``root_path`` before any mount added to it.

    Returns:
        The template; ``"unmatched"`` if there was no route.
    """
    template = _own_template(scope)
    mounted = scope.get("root_path", "")
    if mounted == root_path:
        return template or UNMATCHED
    # A mount leaves only the path it matched, which may hold the values of parameters.
    found = None
    if mounted.startswith(root_path):
        rest = route_path({"path": scope["path"], "root_path": root_path})
        found = _find_mount(getattr(app, "routes", ()), rest, mounted[len(root_path) :])
    prefix, routes = found or ("/{mount}", ())
    if template is None:
        template = _by_endpoint(scope, routes)
    if template is None or isinstance(scope.get("route"), Mount):
        return f"{prefix}/{{path}}"  # what is mounted has no such route, or no routes at all
    return prefix + template


def _own_template(scope: MutableMapping[str, Any]) -> str | None:
    route = scope.get("route")
    if route is None:
        return _by_endpoint(scope, getattr(scope.get("app"), "routes", ()))
    # Since FastAPI 0.137 an included router's routes know only their own part of the path.
    effective = scope.get("fastapi", {}).get("effective_route_context")
    if effective is not None:
        included = getattr(effective, "starlette_route", None)
        if effective.original_route is route or included is route:
            return _path(included or effective)
        if _path(route) is None and included is not None and not isinstance(included, Mount):
            return _path(included)
    return _path(route)


def _by_endpoint(scope: MutableMapping[str, Any], routes: Iterable[BaseRoute]) -> str | None:
    """Look for the route: of one that is Starlette's own, often only the endpoint is known."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    path = route_path(scope)
    for _, route in effective_routes(routes):
        if getattr(route, "endpoint", None) is endpoint and _matches(route, path):
            return _path(route)
    return None


def allowed_methods(scope: MutableMapping[str, Any]) -> set[str]:
    """Return the methods of all routes of the path; Starlette names those of the first only."""
    path, methods = route_path(scope), set[str]()
    for _, route in effective_routes(getattr(scope.get("app"), "routes", ())):
        if _matches(route, path):
            methods |= getattr(route, "methods", None) or set()
    return methods


def effective_routes(routes: Iterable[BaseRoute]) -> Iterator[tuple[BaseRoute, object]]:
    """Yield each route, of included routers too, and what has its whole path."""
    for context in iter_route_contexts(list(routes)):
        # The first FastAPIs with included routers keep what is not theirs a step further in.
        yield context.original_route, getattr(context, "starlette_route", None) or context


def _matches(route: object, path: str) -> re.Match[str] | None:
    regex = getattr(route, "path_regex", None)
    return None if regex is None else regex.match(path)


def _path(route: object) -> str | None:
    path = getattr(route, "path_format", None)
    return path if isinstance(path, str) else None


def _find_mount(
    routes: Iterable[BaseRoute], path: str, mounted: str
) -> tuple[str, Iterable[BaseRoute]] | None:
    """Return the template of the mounts that matched ``mounted``, and what lies below."""
    for original, route in effective_routes(routes):
        inner = getattr(original, "routes", None) or ()
        if not isinstance(original, Mount):
            found = _find_mount(inner, path, mounted)  # Host
            if found is not None:
                return found
            continue
        matched = _matches(route, path)
        if not matched:
            continue
        prefix = path[: len(path) - len(matched["path"]) - 1]
        template = (_path(route) or "").removesuffix("/{path}")
        if prefix == mounted:
            return template, inner
        if mounted.startswith(prefix + "/"):
            found = _find_mount(inner, path[len(prefix) :], mounted[len(prefix) :])
            if found is not None:
                return template + found[0], found[1]
    return None
