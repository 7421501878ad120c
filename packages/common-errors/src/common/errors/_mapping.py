"""Foreign exceptions become ours, with the original as their cause."""

from __future__ import annotations

from types import CoroutineType

from common.errors._base import AppError
from common.errors._retry import is_cancellation

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType
    from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

    # What a foreign exception becomes. The function's argument is as specific as the mapping's
    # key, which no type can say.
    Target: TypeAlias = type[AppError] | Callable[[Any], AppError | None]

    P = ParamSpec("P")
    R = TypeVar("R")
    E = TypeVar("E", bound=AppError)


def wrap(
    error: BaseException,
    error_type: Callable[Concatenate[str | None, P], E],
    message: str | None = None,
    /,
    *arguments: P.args,
    **fields: P.kwargs,
) -> E:
    """Return a new error of ``error_type`` whose ``__cause__`` is ``error``.

    The text of ``error`` is not copied: drivers put connection strings and values into it.

    Args:
        error: The foreign exception; its traceback and its own causes stay with it.
        error_type: The class to make (or any function that takes a message).
        message: What happened, for the caller; without it the default message of the class.
        *arguments: Handed to ``error_type``.
        **fields: Handed to ``error_type``: its detail fields.

    Example:
        >>> from common.errors import DatabaseError
        >>> try:
        ...     {}["id"]
        ... except KeyError as error:
        ...     ours = wrap(error, DatabaseError, "The row has no id", table="orders")
        >>> ours.__cause__, ours.details["table"]
        (KeyError('id'), 'orders')
    """
    ours = error_type(message, *arguments, **fields)
    ours.__cause__ = error
    return ours


class map_errors:  # noqa: N801 - used like a function: a context manager and a decorator
    """Turn foreign exceptions into ours, as a decorator or a context manager, sync or async.

    The most specific class wins, whatever the order of ``mapping``. What is not mapped goes
    through as it is, and so does every `AppError`. Cancellation (asyncio's and that of
    `concurrent.futures`), `KeyboardInterrupt`, `SystemExit` and `GeneratorExit` always go
    through, even if the mapping names `BaseException`. ``StopIteration`` and
    ``StopAsyncIteration`` go through unless they are named.

    An exception group stays a group: each member is mapped by itself, so that ``except*``
    finds ours, and members that go through stay in place. Only a mapping that names a group
    class turns the whole group into one error.

    The original is the ``__cause__`` of the new error; its text is not copied, since drivers
    put connection strings and values into it.

    As a decorator it works for functions, coroutine functions, generators and asynchronous
    generators (values and exceptions sent into a generator reach it).

    Args:
        mapping: For each foreign class one of ours, which is made with its default message,
            or a function that takes the exception and returns one of ours (or ``None``: it
            goes through).
        default: What every other `Exception` becomes; by default it goes through.

    Raises:
        TypeError: If a key is not an exception class, or a value neither a class derived from
            `AppError` nor a function.

    Example:
        >>> from common.errors import NotFoundError
        >>> @map_errors({KeyError: lambda error: NotFoundError(resource_id=error.args[0])})
        ... def find(key: str) -> str:
        ...     return {}[key]
        >>> try:
        ...     find("o-1")
        ... except NotFoundError as error:
        ...     print(error.details, repr(error.__cause__))
        {'resource_id': 'o-1'} KeyError('o-1')
    """

    __slots__ = ("_default", "_mapping")

    def __init__(
        self,
        mapping: Mapping[type[BaseException], Target],
        *,
        default: Target | None = None,
    ) -> None:
        for foreign in mapping:
            if not _is_exception_class(foreign):
                raise TypeError(f"map_errors: {foreign!r} is not an exception class")
        for ours in (*mapping.values(), *([] if default is None else [default])):
            sound = issubclass(ours, AppError) if isinstance(ours, type) else callable(ours)
            if not sound:
                raise TypeError(
                    f"map_errors: {ours!r} is neither a class derived from AppError nor a "
                    "function that returns such an error"
                )
        self._mapping = dict(mapping)
        self._default = default

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and (ours := self._map(error)) is not error:
            raise ours

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function`` with its exceptions mapped, of the same kind (sync, async, …)."""
        import inspect  # noqa: PLC0415 - costly, and only decorating needs it
        from functools import wraps  # noqa: PLC0415

        call: Callable[..., Any] = function
        own_call = getattr(function, "__call__", None)  # noqa: B004 - its kind, not its presence

        def plain(*arguments: Any, **named: Any) -> Any:
            with self:
                result = call(*arguments, **named)
            # A plain function may hand out a coroutine, which fails only when awaited.
            return self._await(result) if isinstance(result, CoroutineType) else result

        async def coroutine(*arguments: Any, **named: Any) -> Any:
            with self:
                return await call(*arguments, **named)

        def generator(*arguments: Any, **named: Any) -> Any:
            with self:
                return (yield from call(*arguments, **named))

        if inspect.isasyncgenfunction(function):
            wrapper: Any = _delegating(self, call)
        elif inspect.isgeneratorfunction(function):
            wrapper = generator
        elif inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(own_call):
            wrapper = coroutine
        else:
            wrapper = plain
        same_kind: Callable[P, R] = wraps(call)(wrapper)
        return same_kind

    async def _await(self, coroutine: Coroutine[Any, Any, R]) -> R:
        with self:
            return await coroutine

    def _map(self, error: BaseException) -> BaseException:
        """Return what to raise instead of ``error``, or ``error`` itself."""
        if isinstance(error, AppError):
            return error
        if isinstance(error, Exception) and not is_cancellation(error):
            target = self._target(error)
            if target is not None:
                ours = target() if isinstance(target, type) else target(error)
                if ours is not None and ours is not error:
                    ours.__cause__ = error
                    return ours
        if isinstance(error, BaseExceptionGroup):
            return self._map_group(error)
        return error

    def _target(self, error: Exception) -> Target | None:
        group = isinstance(error, BaseExceptionGroup)
        for cls in type(error).__mro__:
            if cls in self._mapping and (not group or issubclass(cls, BaseExceptionGroup)):
                return self._mapping[cls]
        if group or isinstance(error, StopIteration | StopAsyncIteration):
            return None
        return self._default

    def _map_group(self, group: BaseExceptionGroup[BaseException]) -> BaseException:
        members = [self._map(member) for member in group.exceptions]
        if all(ours is theirs for ours, theirs in zip(members, group.exceptions, strict=True)):
            return group
        ours = group.derive(members).with_traceback(group.__traceback__)
        ours.__cause__ = group.__cause__  # and with it the original group is not printed again
        for note in getattr(group, "__notes__", ()):
            ours.add_note(note)
        return ours


def _is_exception_class(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseException)


def _delegating(scope: map_errors, call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an asynchronous generator function; ``yield from`` does not exist for these."""

    async def async_generator(*arguments: Any, **named: Any) -> Any:
        steps = call(*arguments, **named)
        step = anext(steps)
        while True:
            with scope:
                try:
                    item = await step
                except StopAsyncIteration:
                    return
            try:
                sent = yield item
            except GeneratorExit:
                with scope:
                    await steps.aclose()
                raise
            except BaseException as thrown:  # noqa: BLE001 - for the generator to judge
                step = steps.athrow(thrown)
            else:
                step = steps.asend(sent)

    return async_generator
