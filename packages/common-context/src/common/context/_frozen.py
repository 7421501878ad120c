"""Small immutable values without the import time of dataclasses."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Self


class Frozen:
    """Base of classes whose ``__slots__`` are set once, by their `setters`."""

    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: make a changed copy")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *map(_hashable, self._values())))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return _restore, (type(self), dict(zip(self.__slots__, self._values(), strict=True)))


def setters(cls: type[Frozen]) -> tuple[Callable[[Any, Any], None], ...]:
    """Return what sets each of the slots, in their order, for those who make an instance."""
    return tuple(vars(cls)[name].__set__ for name in cls.__slots__)


def _hashable(value: object) -> object:
    return frozenset(value.items()) if isinstance(value, dict) else value


def _restore(cls: type[Any], values: dict[str, Any]) -> Any:
    return cls(**values)
