"""Bases of events and commands."""

from typing import Any, ClassVar

from pydantic import ConfigDict

from common.domain._declaration import (
    Kind,
    MessageInfo,
    Upcaster,
    checked_key,
    checked_type,
    checked_upcasters,
    class_name,
)
from common.domain._errors import suggestion
from common.domain._model import ValueObject
from common.domain._registry import Registry
from common.domain._registry import registry as default_registry


class Message(ValueObject):
    """Common base of `Event` and `Command`; derive from those."""

    model_config = ConfigDict(ignored_types=(Upcaster,))

    __message__: ClassVar[MessageInfo]
    __message_kind__: ClassVar[Kind]
    __message_registry__: ClassVar[Registry] = default_registry

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002 - the standard's word
        version: int = 1,
        key: str | tuple[str, ...] = (),
        oldest: int = 1,
        registry: Registry | None = None,
        **config: Any,
    ) -> None:
        # The rest is done by the function below, which pydantic calls when the fields are known.
        # It has taken its own options out before: what is left here is a mistake.
        for name in config:
            known = ("type", "version", "key", "oldest", "registry")
            raise TypeError(
                f"{class_name(cls)}: unknown option {name}{suggestion(name, known)}; options are "
                f"{', '.join(known)} and those of pydantic's ConfigDict"
            )
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002
        version: int = 1,
        key: str | tuple[str, ...] = (),
        oldest: int = 1,
        registry: Registry | None = None,
        **config: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**config)
        if registry is not None:
            cls.__message_registry__ = registry
        if type is None:
            base = getattr(cls, "__message__", None)
            if base is not None:
                raise TypeError(
                    f"{class_name(cls)} extends {base.type} without a type of its own: give it "
                    "type=…, or derive both from an abstract base"
                )
            return
        info = MessageInfo(
            kind=cls.__message_kind__,
            type=checked_type(cls, type),
            version=version,
            oldest=oldest,
            key=checked_key(cls, (key,) if isinstance(key, str) else key),
            upcasters=checked_upcasters(cls, oldest, version),
        )
        cls.__message__ = info
        cls.__message_registry__.add(cls)


class Event(Message):
    """Something that happened. The class is the data; the bus adds the envelope.

    ``class CallCompleted(Event, type="call.completed", version=1, key="call_id")``

    Args:
        type: CloudEvents type: lower-case words joined by dots, such as ``"call.completed"``.
            The first word decides the stream, the subject is ``evt.<type>``. A class without
            a type is an abstract base.
        version: Version of the schema, counted up on each incompatible change.
        key: Field, or fields, whose value orders messages; dotted for a field of a nested model.
        oldest: Oldest version still read; every version from there on needs an `upcast`.
        registry: Where the class is found, here and in classes derived from it; by default
            `common.domain.registry`.

    Raises:
        TypeError: On declaration, when one of these is wrong or (type, version) is taken.

    Example:
        >>> class LampLit(Event, type="lamp.lit", key="lamp_id", registry=Registry()):
        ...     lamp_id: str
        >>> LampLit.__message__.subject, LampLit.__message__.key_of(LampLit(lamp_id="l-1"))
        ('evt.lamp.lit', 'l-1')
    """

    __message_kind__ = "event"


class Command(Message):
    """Something one service asks another to do; subject ``cmd.<type>``. Declared as an `Event`."""

    __message_kind__ = "command"
