"""``common-events asyncapi``: what an application sends and receives, as an AsyncAPI document.

AsyncAPI 3.0.0, https://www.asyncapi.com/docs/reference/specification/v3.0.0. It is JSON, which
every reader of YAML takes, too (YAML 1.2, section 1.3).
"""

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.domain import Message
from common.errors import ValidationError
from common.events.core._binary import PREFIX
from common.events.core._command._app import App, Vocabulary, has_stream
from common.events.core._command._schemas import draft_07, schemas_of
from common.events.core._envelope import (
    CONTENT_TYPE,
    MAX_ID,
    MAX_TEXT,
    SPEC_VERSION,
    schema_uri,
)
from common.events.core._subscription import Subscription

Document = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_STRUCTURED = "application/cloudevents+json"
_ENVELOPE = "CloudEvent"
_HEADERS = "CloudEventHeaders"


def document(words: Vocabulary, *, title: str | None, version: str) -> str:
    """Return the document of one application, or of all messages when there is none.

    Args:
        words: The messages and at most one application.
        title: Of the document; by default the service's name.
        version: Of the document.

    Raises:
        ValidationError: There are several applications.
    """
    if len(words.apps) > 1:
        raise ValidationError("an AsyncAPI document is about one application: give --app once")
    app = words.apps[0] if words.apps else None
    received = [cls for each in (app.bus.subscriptions if app else ()) for cls in each.types]
    sent = app.sends() if app else []
    classes = _unique([*sent, *received]) if app else list(words.classes)
    names, definitions = schemas_of(classes, _SCHEMAS + "{model}")
    schema_names = _names_of_ours(definitions)
    schemas = {name: draft_07(schema) for name, schema in definitions.items()}
    schemas |= {schema_names[_ENVELOPE]: _envelope(), schema_names[_HEADERS]: _headers()}
    binary = app is not None and app.bus.config.mode == "binary"
    messages = {
        _id(cls): _message(cls, name, schema_names, binary=binary)
        for cls, name in zip(classes, names, strict=True)
    }
    found: Document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": title or (app.bus.service if app else "All messages"),
            "version": version,
            "description": _about(app),
        },
        "defaultContentType": CONTENT_TYPE if binary else _STRUCTURED,
        "channels": {
            classes[0].__message__.subject: _channel(classes, words)
            for classes in _by_subject(classes).values()
        },
        "operations": {**_sending(sent), **_receiving(app.bus.subscriptions if app else ())},
        "components": {"messages": messages, "schemas": schemas},
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _about(app: App | None) -> str:
    if app is None:
        return "Every message that is declared, whoever sends or receives it."
    return (
        f"What {app.bus.service} sends (the events of its streams) and receives (what it is "
        "subscribed to). Any service may send a command; those it sends are not listed."
    )


def _channel(classes: Sequence[type[Message]], words: Vocabulary) -> Document:
    info = classes[-1].__message__
    found: Document = {
        "address": info.subject,
        "title": info.type,
        "messages": {_id(cls): {"$ref": f"#/components/messages/{_id(cls)}"} for cls in classes},
        "tags": [{"name": info.kind}],
    }
    for streams in words.streams:
        if has_stream(streams, classes[-1]):
            found["x-stream"] = streams.stream_for(classes[-1]).name
            break
    if info.key:
        found["x-partition-key"] = list(info.key)
    return found


def _message(cls: type[Message], name: str, ours: Mapping[str, str], *, binary: bool) -> Document:
    info = cls.__message__
    text = inspect.getdoc(cls) or ""
    found: Document = {
        "name": info.type,
        "title": f"{cls.__name__} (version {info.version})",
        "summary": text.partition("\n\n")[0].replace("\n", " "),
        "description": text,
        "contentType": CONTENT_TYPE if binary else _STRUCTURED,
    }
    told = {
        "type": {"const": info.type},
        "dataschema": {"const": schema_uri(info)},
    }
    data = {"$ref": _SCHEMAS + name}
    if binary:
        found["headers"] = {
            "allOf": [{"$ref": _SCHEMAS + ours[_HEADERS]}],
            "properties": {PREFIX + name: schema for name, schema in told.items()},
        }
        found["payload"] = data
        found["correlationId"] = {"location": f"$message.header#/{PREFIX}correlationid"}
    else:
        found["payload"] = {
            "allOf": [{"$ref": _SCHEMAS + ours[_ENVELOPE]}],
            "properties": {**told, "data": data},
            "required": ["data", "dataschema"],
        }
        found["correlationId"] = {"location": "$message.payload#/correlationid"}
    return {key: value for key, value in found.items() if value}


def _sending(classes: Iterable[type[Message]]) -> Document:
    return {
        f"send.{found[0].__message__.subject}": _operation("send", found)
        for found in _by_subject(classes).values()
    }


def _receiving(subscriptions: Iterable[Subscription]) -> Document:
    operations: Document = {}
    for each in subscriptions:
        for classes in _by_subject(each.types).values():
            operation = _operation("receive", classes)
            operation["title"] = f"{each.durable} receives {classes[0].__message__.type}"
            operation["x-durable"] = each.durable
            operation["x-attempts"] = each.retry.attempts
            operation["x-dead-letter"] = each.dead_letter
            operations[f"receive.{each.durable}.{classes[0].__message__.subject}"] = operation
    return operations


def _operation(action: str, classes: Sequence[type[Message]]) -> Document:
    channel = f"#/channels/{classes[0].__message__.subject}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{_id(cls)}"} for cls in classes],
    }


def _envelope() -> Document:
    """Return the schema of CloudEvents' JSON format, as this package writes it."""
    return {
        "title": "CloudEvents 1.0, JSON event format",
        "type": "object",
        "required": ["specversion", "id", "source", "type"],
        "properties": _attributes(),
        "additionalProperties": True,
    }


def _headers() -> Document:
    """Return the schema of CloudEvents' headers in binary mode."""
    required = ["specversion", "id", "source", "type"]
    return {
        "title": "CloudEvents 1.0, attributes as headers",
        "type": "object",
        "required": [PREFIX + name for name in required],
        "properties": {
            "Content-Type" if name == "datacontenttype" else PREFIX + name: schema
            for name, schema in _attributes().items()
        },
    }


def _attributes() -> dict[str, Document]:
    def text(description: str, limit: int = MAX_ID, **more: str) -> Document:
        size = {"minLength": 1, "maxLength": limit}
        return {"type": "string", **size, **more, "description": description}

    return {
        "specversion": {"const": SPEC_VERSION},
        "id": text("Message id, by which repetitions are known."),
        "source": text("Who sends.", MAX_TEXT, format="uri-reference"),
        "type": text("What the data is.", MAX_TEXT),
        "subject": text("Partition key: messages of one key are in order.", MAX_TEXT),
        "time": text("When it was made.", 64, format="date-time"),
        "datacontenttype": {"const": CONTENT_TYPE},
        "dataschema": text("Schema of the data; ends in its version.", MAX_TEXT, format="uri"),
        "correlationid": text("The chain of requests and messages it belongs to."),
        "causationid": text("The message whose handling sent this one."),
        "tenant": text("Whose data it is about."),
        "traceparent": text("The span that sent it (W3C Trace Context).", 55),
        "tracestate": text("What tracing systems carry along.", 512),
    }


def _names_of_ours(taken: Mapping[str, object]) -> dict[str, str]:
    """Return names for our own definitions, which a message class may have already."""
    found: dict[str, str] = {}
    for name in (_ENVELOPE, _HEADERS):
        free = name
        while free in taken:
            free += "_"
        found[name] = free
    return found


def _unique(classes: Iterable[type[Message]]) -> list[type[Message]]:
    found = {cls: cls.__message__ for cls in classes}
    return sorted(found, key=lambda cls: (found[cls].type, found[cls].version))


def _by_subject(classes: Iterable[type[Message]]) -> dict[str, list[type[Message]]]:
    found: dict[str, list[type[Message]]] = {}
    for cls in _unique(classes):
        found.setdefault(cls.__message__.subject, []).append(cls)
    return found


def _id(cls: type[Message]) -> str:
    return f"{cls.__message__.type}.v{cls.__message__.version}"
