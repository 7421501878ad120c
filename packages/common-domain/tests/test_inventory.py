# This file gives wrong values on purpose, or data as it comes from outside.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

"""Everything the replaced systems had exists, with its names and values."""

import importlib
import inspect
import json
import types
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel

import common.errors
from common.domain import CONSUMER_DEFAULTS, STREAM_DEFAULTS, registry, streams
from common.errors import AppError

INVENTORY = json.loads((Path(__file__).parent / "inventory.json").read_text())
PACKAGE = Path(importlib.import_module("common.domain").__file__).parent
AREAS = [
    importlib.import_module(f"common.domain.{path.stem}")
    for path in sorted(PACKAGE.glob("*.py"))
    if not path.stem.startswith("_")
]


def named(name: str) -> Any:
    found = {id(value): value for area in AREAS if (value := vars(area).get(name)) is not None}
    assert len(found) == 1, f"{name} is defined {len(found)} times"
    return next(iter(found.values()))


@pytest.mark.parametrize("message", INVENTORY["messages"], ids=lambda m: m["constant"])
def test_message_exists_with_its_constant_family_subject_and_payload(message):
    family = named(message["family"])
    assert issubclass(family, StrEnum)
    assert family[message["constant"]] == message["subject"]
    cls = registry.by_subject(message["subject"])
    assert cls.__message__.kind == message["kind"]
    assert cls.__message__.version == 1
    if message["payload"]:
        assert named(message["payload"]) is cls
    assert set(INVENTORY["extra_event_fields"].get(message["subject"], ())) <= set(cls.model_fields)


def test_families_and_registry_hold_nothing_the_inventory_does_not_name():
    subjects = {message["subject"] for message in INVENTORY["messages"]}
    families = {message["family"] for message in INVENTORY["messages"]}
    assert {str(member) for family in families for member in named(family)} == subjects
    own = {
        cls.__message__.subject
        for cls in registry.all()
        if cls.__module__.startswith("common.domain.")
    }
    assert own == subjects


NAMED_TYPES = {
    "UUID": UUID,
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "datetime": AwareDatetime,
    "None": type(None),
}


def leaves(annotation: Any) -> tuple[bool, Any, Any]:
    """Return whether an annotation is optional, its container and its element."""
    if get_origin(annotation) is Annotated:
        return leaves(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        inner = [each for each in get_args(annotation) if each is not type(None)]
        assert len(inner) == 1
        _, container, element = leaves(inner[0])
        return True, container, element
    if get_origin(annotation) in {list, dict}:
        return False, get_origin(annotation), leaves(get_args(annotation)[-1])[2]
    return False, None, annotation


@pytest.mark.parametrize("name", INVENTORY["payloads"])
def test_payload_has_its_fields_types_and_defaults(name):
    cls = named(name)
    assert issubclass(cls, BaseModel)
    declared = INVENTORY["payloads"][name]
    assert set(cls.model_fields) == {field["name"] for field in declared}
    for field in declared:
        info = cls.model_fields[field["name"]]
        where = f"{name}.{field['name']}"
        assert info.is_required() is field["required"], where
        optional, container, element = leaves(info.annotation)
        kind = field["type"]
        assert optional == kind.endswith(" | None"), where
        kind = kind.removesuffix(" | None")
        if kind == "create | update | delete":
            assert [member.value for member in element] == kind.split(" | "), where
        elif kind == "list[dict[str, Any]]":
            assert (container, element) == (list, named("CatalogItem")), where
        elif kind == "dict[str, Any]":
            assert container is dict, where
        elif kind.startswith("list["):
            element_name = kind[5:-1]
            expected = NAMED_TYPES.get(element_name) or named(element_name)
            assert (container, element) == (list, expected), where
        else:
            assert container is None, where
            assert element is (NAMED_TYPES.get(kind) or named(kind)), where
        check_default(cls, field, info, where)


def check_default(cls: type[BaseModel], field: dict[str, Any], info: Any, where: str) -> None:
    default = field.get("default")
    if field["required"]:
        return
    if default is None or default == "None" or default.startswith("Field(None"):
        expected = None
    elif "default_factory=dict" in default:
        expected = {}
    elif "default_factory=list" in default:
        expected = []
    elif default.startswith("Field(default="):
        expected = int(default.removeprefix("Field(default=").split(",")[0])
    else:
        expected = {"'UTC'": "UTC", "False": False, "1": 1}[default]
    assert info.get_default(call_default_factory=True) == expected, where
    schema = cls.model_json_schema()["properties"][field["name"]]
    numbers = next((each for each in schema.get("anyOf", []) if "minimum" in each), schema)
    for limit, keyword in (("ge", "minimum"), ("le", "maximum")):
        if f"{limit}=" in (default or ""):
            value = int(default.split(f"{limit}=")[1].split(",")[0].rstrip(")"))
            assert numbers[keyword] == value, where


@pytest.mark.parametrize("name", INVENTORY["enums"])
def test_enum_has_its_members_and_values(name):
    cls = named(name)
    assert issubclass(cls, StrEnum)
    assert {member.name: member.value for member in cls} == INVENTORY["enums"][name]


# Types of keywords that differ from the inventory's on purpose, each with its reason.
DELIBERATE: dict[str, dict[str, str]] = {
    # What every error takes; the inventory leaves it out.
    "AppError": {
        "message": "str | None",
        "code": "str | None",
        "status": "int | None",
        "details": "Mapping[str, object] | None",
        "cause": "BaseException | None",
    },
    # None: what the class says. Dependencies tell when to try again, in seconds.
    "InfrastructureError": {"retryable": "bool | None", "retry_after": "float | None"},
    # `object` takes None too; strict typing has no Any. `value` is not in the details: it may be
    # a secret.
    "ValidationError": {"value": "<class 'object'>"},
    "NotFoundError": {"resource_id": "<class 'object'>"},
    # Half a second is a time to wait, too.
    "RateLimitedError": {"retry_after": "float | None"},
    # Says what the list holds.
    "TemplateRenderError": {"missing_variables": "list[str] | None"},
}


def module_of(error: dict[str, Any]) -> Any:
    if error["area"] in {"base", "infrastructure"}:
        return common.errors
    return importlib.import_module(f"common.domain.{error['area']}")


def own_details(cls: type[AppError]) -> dict[str, str]:
    """Return the keywords a class adds to its base's, with their types."""
    own = inspect.get_annotations(cls)
    return {
        keyword: str(own[field.attribute]).replace("uuid.", "")
        for keyword, field in cls._fields.items()
        if field.attribute in own
    }


@pytest.mark.parametrize("error", INVENTORY["errors"], ids=lambda e: e["name"])
def test_error_has_its_base_code_status_message_and_details(error):
    cls = getattr(module_of(error), error["name"])
    base = Exception if error["base"] == "Exception" else getattr(common.errors, error["base"])
    assert issubclass(cls, base)
    assert (cls.code, cls.status) == (error["code"], error["status"])
    assert cls.default_message == error["default_message"]
    declared = {detail["name"]: detail["type"] for detail in error["details"]}
    assert own_details(cls) == {**declared, **DELIBERATE.get(error["name"], {})}
    values = {name: sample(kind) for name, kind in declared.items()}
    raised = cls("It happened", **values)
    for name, value in values.items():
        assert getattr(raised, name) == value
    assert cls().message
    # Personal, or what a user submitted: reachable in code, never shown.
    shown = set(values) - {"recipient", "value"}
    assert shown <= set(raised.details) <= {*shown, "retryable"}


def test_no_area_has_an_error_the_inventory_does_not_name():
    named_ones = {error["name"] for error in INVENTORY["errors"]}
    own = {
        name
        for area in AREAS
        for name, value in vars(area).items()
        if isinstance(value, type) and issubclass(value, AppError)
        if value.__module__ == area.__name__
    }
    assert own <= named_ones


def sample(kind: str) -> object:
    return {
        "Any | None": "a",
        "bool": True,
        "str | None": "a",
        "int | None": 3,
        "float | None": 0.5,
        "UUID | None": UUID(int=1),
        "list | None": ["a"],
        "list[str] | None": ["a"],
    }[kind]


def test_streams_and_services_are_those_of_the_inventory():
    names = {stream.name for stream in streams}
    assert set(INVENTORY["streams"]) <= names
    assert names - set(INVENTORY["streams"]) == {"CALL", "MEMORY", "TRANSCRIPT"}
    assert streams.services == {
        service: (stream,) for service, stream in INVENTORY["service_streams"].items()
    }


@pytest.mark.parametrize(
    ("section", "defaults"),
    [("stream_defaults", STREAM_DEFAULTS), ("consumer_defaults", CONSUMER_DEFAULTS)],
)
def test_defaults_are_those_of_the_inventory(section, defaults):
    found = {name: getattr(defaults, name) for name in type(defaults).__dataclass_fields__}
    assert found == INVENTORY[section]
