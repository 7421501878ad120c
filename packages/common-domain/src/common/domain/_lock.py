"""The committed record of all message schemas, and the check of the code against it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from common.domain._compatibility import Direction, differences
from common.domain._message import Message
from common.domain._registry import registry
from common.domain._schema import stable_schema
from common.errors import DomainError

FORMAT = 1


class SchemaLockError(DomainError):
    """A schema lock cannot be read."""

    code = "SCHEMA_LOCK_INVALID"


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """A change after which some service could not read some message.

    Attributes:
        type: The message type.
        version: The version that was changed.
        path: Where, from ``$``, the data; ``[]`` is any item of a list, ``{}`` any value of a
            mapping and ``{key}`` any key.
        problem: What changed.
        direction: ``"backward"``: the new code cannot read messages of the committed schema.
            ``"forward"``: code of the committed schema cannot read messages of the new one.
        fix: What to do.
    """

    type: str
    version: int
    path: str
    problem: str
    direction: Direction
    fix: str

    def __str__(self) -> str:
        return f"{self.type} v{self.version}: {self.path}: {self.problem} ({self.direction})"


def schema_lock(
    messages: Iterable[type[Message]] | None = None, *, previous: str | None = None
) -> str:
    """Return the JSON Schemas of messages as deterministic JSON text, to be committed.

    Args:
        messages: The classes; by default all of `registry`.
        previous: The lock to replace. Versions that are still read but have no class any more
            are kept from it; they are what the upcasters get.

    Raises:
        SchemaLockError: ``previous`` is no schema lock.
    """
    types: dict[str, dict[str, Any]] = {}
    classes = _by_type(messages)
    for name, versions in classes.items():
        types[name] = {str(v): _entry(cls) for v, cls in versions.items()}
    for name, version, entry in _entries(previous):
        if any(cls.__message__.reads(version) for cls in classes.get(name, {}).values()):
            types[name].setdefault(str(version), entry)
    lock = {"format": FORMAT, "types": types}
    return json.dumps(lock, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def check_compatibility(
    lock: str,
    messages: Iterable[type[Message]] | None = None,
    *,
    direction: Literal["backward", "forward", "full"] = "full",
) -> list[Incompatibility]:
    """Compare message classes with a lock and return what must not change, in a stable order.

    Fine are new types, new versions with upcasters from the old ones, and new optional fields.
    Reported are removed and retyped fields, new required ones, values added to or removed from
    enumerations, limits made narrower (backward) or wider (forward), another pattern, format
    or key, lost `Sensitive` marks, and versions that nothing reads any more. Rules in Python
    (validators, cross-field rules) and defaults are not in a JSON Schema: a change of those is
    not seen.

    Args:
        lock: Text made by `schema_lock`.
        messages: The classes; by default all of `registry`.
        direction: Which services have to keep working: ``"backward"`` suffices where all
            consumers are updated before the producers, ``"forward"`` where producers are first.

    Raises:
        SchemaLockError: ``lock`` is no schema lock.
    """
    classes = _by_type(messages)
    found = [
        each
        for name, version, entry in _entries(lock)
        for each in _check(name, version, entry, classes.get(name, {}))
        if direction in {"full", each.direction}
    ]
    return sorted(found, key=lambda each: (each.type, each.version, each.path, each.problem))


def _check(
    name: str, version: int, entry: dict[str, Any], classes: dict[int, type[Message]]
) -> Iterator[Incompatibility]:
    def found(path: str, problem: str, direction: Direction, fix: str) -> Incompatibility:
        return Incompatibility(name, version, path, problem, direction, fix)

    cls = classes.get(version)
    if cls is not None:
        now = _entry(cls)
        fix = f"declare version {version + 1} with @upcast({version}), or take the change back"
        for what in ("kind", "key"):
            if now[what] != entry[what]:
                change = f"{what} changed from {_show(entry[what])} to {_show(now[what])}"
                yield found("$", change, "backward", fix)
        for path, problem, direction in differences(entry["schema"], now["schema"]):
            yield found(path, problem, direction, fix)
    elif not classes:
        fix = "declare it again, or remove it from the lock once nothing sends or stores it"
        yield found("$", "the type is not declared any more", "backward", fix)
    elif version > max(classes):
        fix = f"declare version {version} again: messages of it may be stored already"
        yield found("$", "the version is newer than the code's", "backward", fix)
    elif not any(each.__message__.reads(version) for each in classes.values()):
        fix = f"keep @upcast({version}), or remove the version from the lock once none is stored"
        yield found("$", "the version cannot be read any more", "backward", fix)


def _by_type(messages: Iterable[type[Message]] | None) -> dict[str, dict[int, type[Message]]]:
    classes: dict[str, dict[int, type[Message]]] = {}
    for cls in registry.all() if messages is None else messages:
        classes.setdefault(cls.__message__.type, {})[cls.__message__.version] = cls
    return classes


def _entry(cls: type[Message]) -> dict[str, Any]:
    info = cls.__message__
    return {"kind": info.kind, "key": list(info.key), "schema": stable_schema(cls)}


def _entries(lock: str | None) -> Iterator[tuple[str, int, dict[str, Any]]]:
    if lock is None:
        return
    try:
        data = json.loads(lock)
        if data["format"] != FORMAT:
            raise SchemaLockError(
                f"the schema lock has format {data['format']}, this code reads {FORMAT}: write "
                "it anew"
            )
        entries = [
            (name, int(version), {key: entry[key] for key in ("kind", "key", "schema")})
            for name, versions in data["types"].items()
            for version, entry in versions.items()
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SchemaLockError(
            "this is no schema lock: write one with python -m common.domain lock", cause=error
        ) from error
    yield from entries


def _show(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
