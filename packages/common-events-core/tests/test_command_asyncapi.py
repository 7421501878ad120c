"""common-events asyncapi: valid by the official schema, and about the right things."""

import json
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator

from common.events.core import Codec

if TYPE_CHECKING:
    from command_support import Project
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("command_support.py")))["shared"])


OFFICIAL = Draft7Validator(
    json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text("utf-8"))
)


def document(project: "Project", *arguments: str) -> dict[str, Any]:
    code, out, err = project.run("asyncapi", *arguments)
    assert (code, err) == (0, "")
    found = json.loads(out)
    problems = [f"{error.json_path}: {error.message}" for error in OFFICIAL.iter_errors(found)]
    assert problems == []
    check_references(found, found)
    return found


def check_references(part: Any, whole: dict[str, Any]) -> None:
    if isinstance(part, dict):
        if "$ref" in part:
            resolve(part["$ref"], whole)
            assert set(part) == {"$ref"}  # by draft 7, what stands beside it is ignored
        for value in part.values():
            check_references(value, whole)
    elif isinstance(part, list):
        for value in part:
            check_references(value, whole)


def resolve(reference: str, whole: Any) -> Any:
    assert reference.startswith("#/")
    for name in reference[2:].split("/"):
        whole = whole[name]
    return whole


def payloads(document: dict[str, Any], name: str) -> Draft7Validator:
    message = document["components"]["messages"][name]
    return Draft7Validator({**message["payload"], "components": document["components"]})


def test_the_official_schema_finds_a_mistake():
    operation = {"action": "shout", "channel": {"$ref": "#/channels/b"}}
    info = {"title": "x", "version": "1"}
    broken = {"asyncapi": "3.0.0", "info": info, "operations": {"a": operation}}
    assert list(OFFICIAL.iter_errors(broken))


def test_an_application_sends_its_events_and_receives_what_it_is_subscribed_to(
    project: "Project",
):
    found = document(project, "--app", "@lamps", "--document-version", "2.1.0")
    assert found["info"]["title"] == "lamps"
    assert found["info"]["version"] == "2.1.0"
    assert set(found["channels"]) == {"evt.lamp.lit", "cmd.lamp.light"}
    assert set(found["operations"]) == {
        "send.evt.lamp.lit", "receive.repair.evt.lamp.lit", "receive.count.evt.lamp.lit",
        "receive.switch.cmd.lamp.light",
    }  # fmt: skip
    assert found["operations"]["send.evt.lamp.lit"]["action"] == "send"
    received = found["operations"]["receive.repair.evt.lamp.lit"]
    assert received["action"] == "receive"
    assert received["messages"] == [{"$ref": "#/channels/evt.lamp.lit/messages/lamp.lit.v2"}]
    assert received["x-attempts"] == 2
    channel = found["channels"]["evt.lamp.lit"]
    assert channel["address"] == "evt.lamp.lit"
    assert channel["x-stream"] == "LAMP"
    assert channel["x-partition-key"] == ["lamp"]
    assert list(channel["messages"]) == ["lamp.lit.v1", "lamp.lit.v2"]


def test_payloads_are_what_the_codec_writes(project: "Project"):
    apps = project.module
    found = document(project, "--app", "@lamps")
    codec = Codec(source="/lamps", registry=apps.REGISTRY)
    body = json.loads(codec.encode(apps.Lit(lamp="a", owners=[{"name": "Jo"}]), id="1")[0])
    assert not list(payloads(found, "lamp.lit.v2").iter_errors(body))
    # "every message MUST be valid against one, and only one" of a channel's
    assert list(payloads(found, "lamp.lit.v1").iter_errors(body))
    for change in ({"type": "door.opened"}, {"data": {}}, {"specversion": "0.3"}, {"id": ""}):
        assert list(payloads(found, "lamp.lit.v2").iter_errors({**body, **change}))
    command = json.loads(codec.encode(apps.Light(owner={"name": "Jo"}), id="1")[0])
    assert not list(payloads(found, "lamp.light.v1").iter_errors(command))
    command["data"]["corner"] = ["a", 0]  # a tuple: items in draft 7, prefixItems since
    assert list(payloads(found, "lamp.light.v1").iter_errors(command))


def test_binary_mode_has_attributes_in_headers(project: "Project"):
    apps = project.module
    found = document(project, "--app", "@doors")
    message = found["components"]["messages"]["door.opened.v1"]
    assert message["contentType"] == "application/json"
    body, headers = Codec(source="/doors", registry=apps.REGISTRY, mode="binary").encode(
        apps.Opened(door="a"), id="1"
    )
    assert not list(payloads(found, "door.opened.v1").iter_errors(json.loads(body)))
    validator = Draft7Validator({**message["headers"], "components": found["components"]})
    assert not list(validator.iter_errors(dict(headers)))
    assert list(validator.iter_errors({**headers, "ce-type": "lamp.lit"}))


def test_sensitive_fields_keep_their_mark(project: "Project"):
    found = document(project, "--app", "@lamps")
    owner = found["components"]["schemas"]["Owner"]
    assert owner["properties"]["name"]["x-sensitive"] is True


def test_without_an_application_it_has_every_message(project: "Project"):
    found = document(project)
    assert len(found["channels"]) >= 30
    assert found["operations"] == {}
    assert found["channels"]["evt.call.completed"]["x-stream"] == "CALL"
    only = document(project, "--module", "common.domain.calls")
    assert list(only["channels"]) == ["evt.call.completed"]


@pytest.mark.parametrize("option", ["-o", "--output"])
def test_it_can_be_written_to_a_file(project: "Project", option: str):
    code, out, err = project.run("asyncapi", "--app", "@doors", option, "asyncapi.json")
    assert (code, out) == (0, "")
    assert "wrote asyncapi.json" in err
    assert json.loads((project.path / "asyncapi.json").read_text("utf-8"))["asyncapi"] == "3.0.0"
