"""What handlers get besides the message: dependencies, found by type or name."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, NamedTuple, TypeAlias

from common.events.core._errors import HandlerError


class Inject:
    """Marks a handler's parameter as a dependency.

    ``db: Annotated[Database, Inject]`` is found by its type,
    ``url: Annotated[str, Inject("billing_url")]`` by its name.

    Args:
        name: As given to `EventBus.provide`; none: by type.
    """

    __slots__ = ("name",)

    def __init__(self, name: str | None = None) -> None:
        self.name = name


class Wanted(NamedTuple):
    """A dependency as a handler asks for it.

    Args:
        parameter: Name of the parameter.
        type: Its annotation.
        name: By which to find it; ``None``: by type.
        optional: Whether the parameter has a default, and so can do without.
    """

    parameter: str
    type: Any
    name: str | None
    optional: bool

    @property
    def key(self) -> "Key":
        """What it is found by."""
        return self.type if self.name is None else self.name


Key: TypeAlias = Any  # a class, or any other annotation; a name


class _Provided(NamedTuple):
    value: object
    enter: bool


class Dependencies:
    """What was provided; entered at start, left in reverse order at stop."""

    def __init__(self) -> None:
        self._provided: dict[Key, _Provided] = {}
        self._values: dict[Key, object] = {}
        self._stack: AsyncExitStack | None = None

    def provide(
        self, value: object, *, as_: object = None, name: str | None = None, enter: bool = True
    ) -> None:
        """Add a dependency; see `EventBus.provide`."""
        if as_ is not None and name is not None:
            raise HandlerError("provide by type or by name: pass as_=… or name=…, not both")
        if self._stack is not None:
            raise HandlerError("provide dependencies before the bus is started")
        key: Key = name if name is not None else as_ if as_ is not None else type(value)
        managed = isinstance(value, AbstractAsyncContextManager)
        if name is None and as_ is None and type(value).__module__ == "contextlib":
            raise HandlerError(
                "what a context manager function will yield is not known yet: pass as_=… with "
                "its type, or name=…"
            )
        if key in self._provided:
            raise HandlerError(f"{_shown(key)} is provided twice: give one of them a name=…")
        self._provided[key] = _Provided(value, enter=enter and managed)

    def check(self, handler: str, wanted: "tuple[Wanted, ...]") -> None:
        """Raise `HandlerError` unless everything a handler wants is provided."""
        for each in wanted:
            if not each.optional or each.key in self._provided:
                self._find(handler, each)

    async def enter(self) -> None:
        """Enter the context managers, in the order they were provided."""
        stack = AsyncExitStack()
        try:
            values: dict[Key, object] = {}
            for key, provided in self._provided.items():
                value = provided.value
                if provided.enter and isinstance(value, AbstractAsyncContextManager):
                    value = await stack.enter_async_context(value)
                values[key] = value
        except BaseException:
            await stack.aclose()
            raise
        self._values, self._stack = values, stack

    async def leave(self) -> None:
        """Leave the context managers. Idempotent."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    def resolve(self, handler: str, wanted: "tuple[Wanted, ...]") -> Mapping[str, object]:
        """Return the values for a handler's parameters."""
        return {
            each.parameter: self._values[self._find(handler, each)]
            for each in wanted
            if not each.optional or each.key in self._provided
        }

    def _find(self, handler: str, wanted: Wanted) -> Key:
        key = wanted.key
        if key in self._provided:
            return key
        if isinstance(key, type):
            fitting = [
                each for each in self._provided if isinstance(each, type) and issubclass(each, key)
            ]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                names = ", ".join(map(_shown, fitting))
                raise HandlerError(
                    f"{handler}: parameter {wanted.parameter!r} may be any of {names}: provide one "
                    f"with as_={key.__qualname__}, or by name"
                )
        how = f"name={key!r}" if isinstance(key, str) else f"as_={_shown(key)}"
        have = ", ".join(sorted(map(_shown, self._provided))) or "nothing"
        raise HandlerError(
            f"{handler}: nothing is provided for parameter {wanted.parameter!r}: call "
            f"bus.provide(…, {how}) before the start; provided is {have}"
        )


def _shown(key: Key) -> str:
    if isinstance(key, str):
        return repr(key)
    return key.__qualname__ if isinstance(key, type) else str(key)
