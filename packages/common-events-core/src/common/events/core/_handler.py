"""Handlers: functions and classes, checked when they are declared."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as _get_type_hints

from common.domain import Message
from common.events.core._errors import HandlerError
from common.events.core._event_context import EventContext
from common.events.core._inject import Inject, Wanted
from common.events.core._outcome import Outcome

M = TypeVar("M", bound=Message)

Handle: TypeAlias = Callable[[EventContext], Awaitable[Outcome | None]]
"""A handler once its dependencies are resolved."""
OnError: TypeAlias = Callable[[Exception, EventContext], Awaitable[Outcome | None]]
Types: TypeAlias = tuple[type[Message], ...]
Subscribable: TypeAlias = type[Message] | UnionType | Iterable[type[Message]]
"""A message class, a union or a list of them."""


class EventHandler(ABC, Generic[M]):
    """A handler with state of its own, for those who prefer classes; see `EventBus.add`.

    Dependencies are parameters of its constructor.

    Example:
        >>> from common.domain.calls import CallCompleted
        >>> class Bill(EventHandler[CallCompleted]):
        ...     async def on_event(self, event: CallCompleted, ctx: EventContext) -> None:
        ...         print(event.call_id)
    """

    @abstractmethod
    async def on_event(self, event: M, ctx: EventContext) -> Outcome | None:
        """Handle a message."""

    async def on_error(
        self,
        error: Exception,  # noqa: ARG002 - for those who override it
        ctx: EventContext,  # noqa: ARG002
    ) -> Outcome | None:
        """Decide about a message whose handling failed; not called for cancellation.

        Returns:
            What shall become of it; ``None``: what the subscription says.
        """
        return None


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """A handler as declared.

    Args:
        name: For messages and logs.
        types: The message classes of its annotation; none for a base such as ``Event``.
        wanted: Its dependencies.
        on_error: Asked when it fails.
    """

    name: str
    types: Types
    wanted: tuple[Wanted, ...]
    on_error: OnError | None
    _function: Callable[..., Awaitable[Outcome | None]]
    _context: str | None

    def bound(self, dependencies: Mapping[str, object]) -> Handle:
        """Return the function to call for each message."""
        function, context = self._function, self._context
        given = dict(dependencies)
        if context is None:
            return lambda ctx: function(ctx.event, **given)
        if not given:
            return lambda ctx: function(ctx.event, **{context: ctx})
        return lambda ctx: function(ctx.event, **{context: ctx}, **given)


def function_handler(function: Callable[..., Awaitable[Outcome | None]]) -> HandlerInfo:
    """Read the signature of a handler.

    Raises:
        HandlerError: It cannot be used; says what to do.
    """
    return _read(function, _name(function), None)


def class_handler(handler: "EventHandler[Any]") -> HandlerInfo:
    """Read the signature of a class-based handler's ``on_event``.

    Raises:
        HandlerError: It cannot be used; says what to do.
    """
    if isinstance(handler, type):
        raise HandlerError(
            f"{handler.__qualname__} is a class: pass an instance, with what it needs"
        )
    if not isinstance(handler, EventHandler):
        raise HandlerError(
            f"{type(handler).__qualname__} is no EventHandler: derive it from "
            "common.events.core.EventHandler, or subscribe a function with @bus.subscribe"
        )
    name = f"{type(handler).__qualname__}.on_event"
    info = _read(handler.on_event, name, handler.on_error)
    if info.wanted:
        raise HandlerError(f"{name}: let the constructor take {info.wanted[0].parameter!r}")
    return info


def message_types(name: str, given: Iterable[object]) -> Types:
    """Return the message classes of classes, unions and lists of them, each once.

    Raises:
        HandlerError: Something else is among them, or a class without a type.
    """
    found: dict[type[Message], None] = {}
    for each in given:
        if isinstance(each, list | tuple | set | frozenset):
            found.update(dict.fromkeys(message_types(name, each)))
        elif get_origin(each) in {Union, UnionType}:
            found.update(dict.fromkeys(message_types(name, get_args(each))))
        elif not (isinstance(each, type) and issubclass(each, Message)):
            raise HandlerError(f"{name}: {each!r} is no message class: give an Event or a Command")
        elif not hasattr(each, "__message__"):
            raise HandlerError(
                f"{name}: {each.__qualname__} is an abstract base without a type: subscribe to the "
                "classes derived from it"
            )
        else:
            found[each] = None
    return tuple(found)


def check_types(info: HandlerInfo, subscribed: Types) -> None:
    """Check that a handler takes every type it is subscribed to.

    Raises:
        HandlerError: It does not.
    """
    if not info.types:
        return
    for each in subscribed:
        if not issubclass(each, info.types):
            takes = " | ".join(one.__qualname__ for one in info.types)
            raise HandlerError(
                f"{info.name} takes {takes}, but is subscribed to {each.__qualname__}: annotate "
                f"its first parameter with {each.__qualname__}, or subscribe it to {takes}"
            )


def _read(
    function: Callable[..., Awaitable[Outcome | None]], name: str, on_error: OnError | None
) -> HandlerInfo:
    if not inspect.iscoroutinefunction(function):
        raise HandlerError(f"{name} is no coroutine function: declare it with async def")
    hints = _hints(function, name)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in {
        parameters[0].POSITIONAL_ONLY,
        parameters[0].POSITIONAL_OR_KEYWORD,
    }:
        raise HandlerError(
            f"{name}: let its first parameter take the message, such as event: MyEvent"
        )
    first, *others = parameters
    if first.name not in hints:
        raise HandlerError(f"{name}: annotate parameter {first.name!r} with a message class")
    context: str | None = None
    wanted: list[Wanted] = []
    for parameter in others:
        hint = hints.get(parameter.name)
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise HandlerError(f"{name}: remove *{parameter.name}: name what the handler needs")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise HandlerError(
                f"{name}: let {parameter.name!r} be given by name: move the / before it"
            )
        optional = parameter.default is not parameter.empty
        if hint is EventContext and context is None:
            context = parameter.name
        elif (mark := _mark(hint)) is not None:
            wanted.append(Wanted(parameter.name, get_args(hint)[0], mark.name, optional))
        elif not optional:
            shown = getattr(hint, "__qualname__", hint) or "…"
            raise HandlerError(
                f"{name}: what is parameter {parameter.name!r}? Annotate it with EventContext, or "
                f"with Annotated[{shown}, Inject] and provide that: bus.provide(…)"
            )
    types = _event_types(name, first.name, hints[first.name])
    return HandlerInfo(name, types, tuple(wanted), on_error, function, context)


def _event_types(name: str, parameter: str, hint: object) -> Types:
    if isinstance(hint, type) and issubclass(hint, Message) and not hasattr(hint, "__message__"):
        return ()  # Event, Command or another base: whatever is subscribed
    try:
        return message_types(name, [hint])
    except HandlerError as error:
        raise HandlerError(
            f"{name}: parameter {parameter!r} is annotated with {hint!r}, which is no message "
            "class: annotate it with an Event or a Command, or with several: A | B"
        ) from error


def _mark(hint: object) -> Inject | None:
    if get_origin(hint) is Annotated:
        for each in get_args(hint)[1:]:
            if isinstance(each, Inject):
                return each
            if each is Inject:
                return Inject()
    return None


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return _get_type_hints(function, include_extras=True)
    except Exception as error:
        raise HandlerError(
            f"{name}: its annotations cannot be evaluated ({type(error).__name__}: {error}): "
            "import what they name at the top of the module, not under `if TYPE_CHECKING`"
        ) from error


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__
