"""OpenAPI says what errors look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.api._documentation import documentation_of
from common.api._responses import ErrorResponse, Problem
from common.api._route import effective_routes
from common.api._styles import status_phrase

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from pydantic import BaseModel

    from common.api._styles import ErrorStyle

_METHODS = frozenset({"delete", "get", "head", "options", "patch", "post", "put", "trace"})
_PLACE = "#/components/schemas/"
_FASTAPI = frozenset({"HTTPValidationError", "ValidationError"})


def document_errors(app: FastAPI, style: ErrorStyle) -> Callable[[], dict[str, Any]]:
    """Return a function to take the place of ``app.openapi``.

    Every operation gets a ``default`` response, and its 422 the same body, unless the
    application describes one of its own; FastAPI's models for validation errors, which are
    never sent, go. The headers that this package's dependencies read, and the statuses they
    answer with, stand at the routes that have them.
    """
    generate = app.openapi
    done: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        schema = generate()
        if not any(schema is each for each in done):
            _document(schema, style, app)
            done[:] = [schema]
        return schema

    return openapi


def _document(schema: dict[str, Any], style: ErrorStyle, app: FastAPI) -> None:
    model: type[BaseModel] = Problem if style == "problem" else ErrorResponse
    media_type = "application/problem+json" if style == "problem" else "application/json"
    described = model.model_json_schema(mode="serialization", ref_template=_PLACE + "{model}")
    parts = described.pop("$defs", {})
    schemas: dict[str, Any] = schema.setdefault("components", {}).setdefault("schemas", {})
    parts[model.__name__] = described
    parts = {part: _renamed(content, {}) for part, content in parts.items()}
    names = {part: _free(part, schemas, content) for part, content in parts.items()}
    for part, content in parts.items():
        schemas[names[part]] = _renamed(content, names)
    body = {media_type: {"schema": {"$ref": _PLACE + names[model.__name__]}}}
    dependants = _dependants(app)
    for template, path in schema.get("paths", {}).items():
        for method, operation in path.items():
            if method not in _METHODS:
                continue
            _add_dependencies(operation, dependants.get((template, method)), method, body)
            responses = operation.setdefault("responses", {})
            responses.setdefault("default", {"description": "Error", "content": body})
            if _is_fastapis(responses.get("422")):
                responses["422"] = {"description": "Validation Error", "content": body}
    text = str(schema.get("paths", {}))
    for unused in _FASTAPI:
        # FastAPI's ValidationError is referred to by its HTTPValidationError only.
        if f"#/components/schemas/{unused}'" not in text and _is_model(schemas.get(unused)):
            del schemas[unused]


def _dependants(app: FastAPI) -> dict[tuple[str, str], object]:
    """Return what FastAPI knows of each route's dependencies, by template and method."""
    return {
        (str(getattr(route, "path_format", "")), method.lower()): getattr(route, "dependant", None)
        for _, route in effective_routes(app.routes)
        for method in getattr(route, "methods", None) or ()
    }


def _add_dependencies(
    operation: dict[str, Any], dependant: object, method: str, body: dict[str, Any]
) -> None:
    for each in documentation_of(dependant, method):
        parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
        named = {p.get("name", "").lower(): p for p in parameters if p.get("in") == "header"}
        for name, description in each.headers.items():
            parameter = named.get(name.lower())
            if parameter is None:
                schema = {"type": "string"} | ({"pattern": each.pattern} if each.pattern else {})
                parameter = {
                    "name": name,
                    "in": "header",
                    "required": False,
                    "schema": schema,
                    "description": description,
                }
                parameters.append(parameter)
            parameter["required"] = parameter.get("required", False) or each.required
        for status in each.statuses:
            response: dict[str, Any] = {"description": status_phrase(status)}
            if status >= 400:
                response["content"] = body
            operation.setdefault("responses", {}).setdefault(str(status), response)
        if not parameters:
            del operation["parameters"]


def _free(name: str, schemas: dict[str, Any], content: dict[str, Any]) -> str:
    """Return a name that no other model of the application has."""
    while schemas.get(name, content) != content:
        name = f"Common{name}"
    return name


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """Return it with the references renamed, and without null defaults, as FastAPI writes it."""
    if isinstance(schema, list):
        return [_renamed(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: _renamed(value, names)
        for key, value in schema.items()
        if not (key == "default" and value is None)
    }
    if "$ref" in found:
        name = str(found["$ref"]).removeprefix(_PLACE)
        found["$ref"] = _PLACE + names.get(name, name)
    return found


def _is_fastapis(response: Any) -> bool:
    return isinstance(response, dict) and "#/components/schemas/HTTPValidationError'" in str(
        response
    )


def _is_model(schema: Any) -> bool:
    """Return whether it is FastAPI's own, and not an application's of the same name."""
    properties = set(schema.get("properties", {})) if isinstance(schema, dict) else set[str]()
    return properties == {"detail"} or {"loc", "msg", "type"} <= properties
