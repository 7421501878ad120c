"""Finds the class of a message by type and version."""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from common.domain._declaration import class_name
from common.domain._errors import InvalidMessageError, UnknownTypeError, suggestion
from common.domain._problems import errors, problem

if TYPE_CHECKING:
    from common.domain._message import Message

MAX_PROBLEMS = 20
"""Problems listed by one `InvalidMessageError`."""


class Registry:
    """The message classes of a program, by type and version.

    Declaring a class adds it. `registry` is the one used unless a class says otherwise; tests
    make their own: ``class X(Event, type="x.y", registry=Registry())``. Safe to use from
    several threads.

    Args:
        areas: Modules that declare types, by the first word of those types. Each is imported
            when a type that starts with its word is looked up or declared, so that programs
            pay only for the vocabulary they use.

    Example:
        >>> registry.get("call.completed").__name__
        'CallCompleted'
        >>> registry.get("call.complete")
        Traceback (most recent call last):
        common.domain._errors.UnknownTypeError: no class is declared for message type \
'call.complete' (did you mean call.completed?): import the module that declares it
    """

    def __init__(self, areas: Mapping[str, str] | None = None) -> None:
        self._areas = dict(areas or {})
        self._types: dict[str, dict[int, type[Message]]] = {}
        self._newest: dict[str, type[Message]] = {}
        self._lock = Lock()

    def add(self, cls: "type[Message]") -> None:
        """Add a class; done by its declaration.

        Raises:
            TypeError: Another class has the same type and version, or the same type as the
                other kind of message.
        """
        info = cls.__message__
        self._load(info.type)
        with self._lock:
            versions = self._types.setdefault(info.type, {})
            for other in versions.values():
                if other.__message__.kind != info.kind:
                    raise TypeError(
                        f"{class_name(cls)} declares {info.type} as {info.kind}, and "
                        f"{class_name(other)} as {other.__message__.kind}: choose another type"
                    )
            taken = versions.get(info.version)
            if taken is not None and not _same_source(taken, cls):
                raise TypeError(
                    f"{class_name(cls)} declares {info.type} version {info.version}, which "
                    f"{class_name(taken)} has already: choose another type or version"
                )
            # Replaced, not changed: `all` may be walking the old mapping in another thread.
            self._types[info.type] = versions = {**versions, info.version: cls}
            self._newest[info.type] = versions[max(versions)]

    def get(self, type: str, version: int | None = None) -> "type[Message]":  # noqa: A002
        """Return the newest class that reads a type, in a given version if one is named.

        Args:
            type: Such as ``"call.completed"``.
            version: Version of the data at hand; ``None`` for the newest class.

        Raises:
            UnknownTypeError: No class has the type.
            NewerVersionError: The version is newer than every class.
            UnknownVersionError: No class reads the version.
        """
        newest = self._newest.get(type)
        if newest is None:
            self._load(type)
            newest = self._newest.get(type)
        if newest is None:
            raise self._unknown(type)
        if version is None or newest.__message__.reads(version):
            return newest
        versions = self._types[type]
        for at in sorted(versions, reverse=True):
            if versions[at].__message__.reads(version):
                return versions[at]
        raise newest.__message__.unknown(version)

    def by_subject(self, subject: str) -> "type[Message]":
        """Return the newest class published to a subject such as ``"evt.call.completed"``.

        Raises:
            UnknownTypeError: No class is published to the subject.
        """
        prefix, _, name = subject.partition(".")
        if prefix in {"evt", "cmd"}:
            cls = self.get(name)
            if cls.__message__.subject == subject:
                return cls
        raise UnknownTypeError(
            f"no class is published to subject {subject[:200]!r}: subjects are evt.<type> for "
            "events and cmd.<type> for commands"
        )

    def decode(
        self,
        type: str,  # noqa: A002
        data: bytes | str | Mapping[str, object],
        *,
        version: int | None = None,
    ) -> "Message":
        """Turn the data of a message into an instance of its newest class.

        Data of the class's own version is validated in one step from the JSON text. Older data
        is parsed, passed through the upcasters, and validated.

        Args:
            type: Such as ``"call.completed"``.
            data: JSON text, or an already parsed object.
            version: Version of the data; ``None`` when it is known to be the newest.

        Raises:
            UnknownTypeError: No class has the type.
            UnknownVersionError: No class reads the version (`NewerVersionError`: it is from the
                future).
            InvalidMessageError: The data does not fit the type.
        """
        cls = self.get(type, version)
        info = cls.__message__
        try:
            if isinstance(data, str):
                data = data.encode()  # here, because half a surrogate pair is a ValueError
            elif not isinstance(data, bytes):
                data = to_json(data)
            if version is not None and version != info.version:
                data = to_json(info.upcast(_object(info.type, data), version=version))
            message: Message = cls.__pydantic_validator__.validate_json(data)
        except ValidationError as error:
            invalid = _invalid(cls, version or info.version, error)
        except ValueError:  # not JSON, or not to be made JSON of
            invalid = InvalidMessageError(
                f"the data of {info.type} is not JSON", type=info.type, version=version
            )
        else:
            return message
        # Not above: the errors quote the data, and would show in the traceback as its context.
        raise invalid

    def all(self) -> "list[type[Message]]":
        """Return every class, sorted by type and version; imports the areas."""
        for area in self._areas.values():
            import_module(area)
        return list(self)

    def __iter__(self) -> "Iterator[type[Message]]":
        """Iterate over the classes declared so far, sorted by type and version."""
        for name in sorted(self._types):
            versions = self._types[name]
            yield from (versions[at] for at in sorted(versions))

    def _load(self, name: str) -> None:
        # Never under the lock: the module imported declares classes, and another thread that is
        # importing it holds its import lock while it waits for ours.
        area = self._areas.get(name.partition(".")[0])
        if area is not None:
            import_module(area)

    def _unknown(self, name: str) -> UnknownTypeError:
        self.all()  # so that the suggestion knows every name
        return UnknownTypeError(
            f"no class is declared for message type {name[:200]!r}"
            f"{suggestion(name, self._types)}: import the module that declares it",
            type=name[:200],
        )


def _object(name: str, data: bytes) -> dict[str, object]:
    parsed: object = from_json(data)
    if not isinstance(parsed, dict):
        raise InvalidMessageError(f"the data of {name} must be a JSON object", type=name)
    return parsed


def _invalid(cls: "type[Message]", version: int, error: ValidationError) -> InvalidMessageError:
    name = cls.__message__.type
    found = errors(error)
    problems = [problem(cls, each) for each in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        problems.append(f"and {len(found) - MAX_PROBLEMS} more")
    return InvalidMessageError(
        f"{name} version {version} is invalid: {'; '.join(problems)}",
        type=name,
        version=version,
        problems=problems,
    )


def _same_source(one: type, other: type) -> bool:
    """Whether a class is declared again by the same code: a reload, or ``__main__``."""
    return one.__qualname__ == other.__qualname__ and _file(one) == _file(other)


def _file(cls: type) -> str:
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", None) or cls.__module__


registry = Registry(
    {
        "account": "common.domain.credit",
        "call": "common.domain.calls",
        "catalog": "common.domain.catalog",
        "memory": "common.domain.memory",
        "merchant": "common.domain.merchant",
        "notification": "common.domain.notification",
        "order": "common.domain.credit",
        "scheduler": "common.domain.scheduler",
        "subscription": "common.domain.credit",
        "transcript": "common.domain.transcripts",
    }
)
"""Where message classes are found unless they name a registry of their own."""
