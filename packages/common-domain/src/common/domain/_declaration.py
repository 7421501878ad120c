"""What the declaration of a message class says, and the checks on it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from common.domain._annotations import models_in
from common.domain._errors import (
    InvalidMessageError,
    NewerVersionError,
    UnknownVersionError,
    suggestion,
)
from common.domain._problems import where

Kind = Literal["event", "command"]
Data = dict[str, Any]
"""The data of a message as parsed JSON."""

PREFIXES: dict[Kind, str] = {"event": "evt", "command": "cmd"}
"""First word of the subject, by kind of message."""

TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_MAX_TYPE = 128


@dataclass(frozen=True, slots=True)
class Upcaster:
    """What `upcast` puts into the class body."""

    version: int
    function: Callable[[Data], Data]


def upcast(version: int) -> Callable[[Callable[[Data], Data]], Upcaster]:
    """Declare, in the class body, how data of one version becomes data of the next.

    The function gets the parsed JSON of a message of that version, may change it in place, and
    returns it. Versions are chained: a message of version 1 passes every upcaster up to the
    version of the class, and only then is it validated. Old versions need no class.

    Args:
        version: The version read; the result is of version + 1.

    Example:
        >>> from common.domain import Event, Registry
        >>> class TripEnded(Event, type="trip.ended", version=2, registry=Registry()):
        ...     trip_id: str
        ...     meters: int
        ...
        ...     @upcast(1)
        ...     @staticmethod
        ...     def _kilometers_to_meters(data: dict[str, Any]) -> dict[str, Any]:
        ...         data["meters"] = data.pop("kilometers") * 1000
        ...         return data
        >>> TripEnded.__message__.upcast({"trip_id": "t-1", "kilometers": 3}, version=1)
        {'trip_id': 't-1', 'meters': 3000}

    Raises:
        TypeError: On declaration, when it is not on a function or staticmethod.
    """

    def declare(function: Callable[[Data], Data]) -> Upcaster:
        if not callable(function):  # a classmethod is not
            raise TypeError(
                f"@upcast({version}) is on a {type(function).__name__}: let it be a function of "
                f"the data, with @upcast({version}) above @staticmethod"
            )
        return Upcaster(version, function)

    return declare


@dataclass(frozen=True, slots=True)
class MessageInfo:
    """What the declaration of a message class says; every class has it as ``__message__``.

    Attributes:
        kind: ``"event"`` or ``"command"``.
        type: CloudEvents type, such as ``"call.completed"``.
        version: Version of the schema which the class describes.
        oldest: Oldest version its upcasters can read.
        key: Dotted paths of the fields that make the partition key; none: no order is kept.
        upcasters: One function for each version from ``oldest`` up to ``version - 1``.
    """

    kind: Kind
    type: str
    version: int
    oldest: int
    key: tuple[str, ...]
    upcasters: tuple[Callable[[Data], Data], ...]

    @property
    def subject(self) -> str:
        """The subject messages are published to: ``evt.<type>`` or ``cmd.<type>``."""
        return f"{PREFIXES[self.kind]}.{self.type}"

    def reads(self, version: int) -> bool:
        """Whether data of this version can be read."""
        return self.oldest <= version <= self.version

    def key_of(self, message: BaseModel) -> str | None:
        """Return the partition key of a message: messages of one key are handled in order.

        Several fields are joined by ``/``, with ``~`` and ``/`` in them escaped (RFC 6901).
        ``None`` when the class has no key or a field of it is not set.
        """
        parts: list[str] = []
        for path in self.key:
            value: object = message
            for name in path.split("."):
                value = getattr(value, name, None)
            if value is None:
                return None
            parts.append(str(value))
        if len(parts) < 2:
            return parts[0] if parts else None
        return "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)

    def upcast(self, data: Data, *, version: int) -> Data:
        """Bring data of an older version to the version of the class.

        Args:
            data: Parsed JSON; may be changed in place.
            version: The version of the data.

        Raises:
            NewerVersionError: The data is of a version after the class's.
            UnknownVersionError: The data is of a version before ``oldest``.
            InvalidMessageError: An upcaster failed on the data.
        """
        if not self.reads(version):
            raise self.unknown(version)
        for at in range(version, self.version):
            result, failure = _called(self.upcasters[at - self.oldest], data)
            if failure:
                raise InvalidMessageError(
                    f"the upcaster of {self.type} from version {at} to {at + 1} failed with "
                    f"{failure}: either the data is not of version {at}, or the upcaster is wrong",
                    type=self.type,
                    version=version,
                )
            if not isinstance(result, dict):
                raise InvalidMessageError(
                    f"the upcaster of {self.type} from version {at} to {at + 1} returned "
                    f"{type(result).__name__}: let it return the data as a dict",
                    type=self.type,
                    version=version,
                )
            data = result
        return data

    def unknown(self, version: int) -> UnknownVersionError:
        """Return the error for a version which the class does not read."""
        known = f"version {self.version}"
        if self.oldest < self.version:
            known = f"versions {self.oldest} to {self.version}"
        if version > self.version:
            return NewerVersionError(
                f"{self.type} version {version} is newer than this service, which reads {known}: "
                "update the service",
                type=self.type,
                version=version,
            )
        return UnknownVersionError(
            f"{self.type} version {version} cannot be read, only {known}: add an upcaster",
            type=self.type,
            version=version,
        )


def _called(function: Callable[[Data], Data], data: Data) -> tuple[object, str]:
    """Return the result, or what failed and where: the error itself may quote the data."""
    try:
        return function(data), ""
    except Exception as error:  # noqa: BLE001 - data of any kind, and code of others
        here = error.__traceback__
        return None, type(error).__name__ + where(here.tb_next if here else None)


def checked_type(cls: type[BaseModel], name: str) -> str:
    """Return the type, or raise TypeError."""
    if len(name) > _MAX_TYPE or not TYPE.fullmatch(name):
        raise TypeError(
            f"{class_name(cls)}: type {name[:_MAX_TYPE]!r} must be at least two lower-case words "
            f"joined by dots, such as call.completed, of at most {_MAX_TYPE} characters, "
            "without evt. or cmd."
        )
    return name


def checked_key(cls: type[BaseModel], key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key, or raise TypeError when a path names no field."""
    for path in key:
        models: Iterable[type[BaseModel]] = [cls]
        for name in path.split("."):
            known = {known for model in models for known in model.model_fields}
            if name not in known:
                raise TypeError(
                    f"{class_name(cls)}: key {path!r} names no field{suggestion(name, known)}; "
                    f"fields are {', '.join(sorted(known)) or 'none'}"
                )
            models = [
                inner
                for model in models
                if name in model.model_fields
                for inner in models_in(model.model_fields[name].annotation)
            ]
    return key


def checked_upcasters(
    cls: type[BaseModel], oldest: int, version: int
) -> tuple[Callable[[Data], Data], ...]:
    """Return the chain from ``oldest`` to ``version``, or raise TypeError when it has gaps."""
    if not 1 <= oldest <= version:
        raise TypeError(f"{class_name(cls)}: versions count from 1, and oldest is at most version")
    found: dict[int, Upcaster] = {}
    for each in vars(cls).values():
        inner: object = each.__func__ if isinstance(each, staticmethod | classmethod) else None
        if isinstance(inner, Upcaster):
            raise TypeError(
                f"{class_name(cls)}: put @upcast({inner.version}) above @{type(each).__name__}, "
                "and let that be @staticmethod"
            )
        if isinstance(each, Upcaster) and found.setdefault(each.version, each) is not each:
            raise TypeError(f"{class_name(cls)} has two upcasters from version {each.version}")
    expected = range(oldest, version)
    if missing := [at for at in expected if at not in found]:
        raise TypeError(
            f"{class_name(cls)} is version {version} but cannot read version {missing[0]}: add "
            f"@upcast({missing[0]}), or pass oldest={missing[-1] + 1} when no message that old "
            "is stored anywhere"
        )
    if extra := sorted(set(found) - set(expected)):
        raise TypeError(
            f"{class_name(cls)} has an upcaster from version {extra[0]}, outside of versions "
            f"{oldest} to {version}: correct its number, oldest or version"
        )
    return tuple(found[at].function for at in expected)


def class_name(cls: type) -> str:
    """Return the name by which errors speak of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
