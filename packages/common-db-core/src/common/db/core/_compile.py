"""Turning nodes into what a backend runs, by a table from node to function."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from common.db.core._errors import UnsupportedQuery
from common.db.core._query import Predicate

N = TypeVar("N", bound=Predicate)
C = TypeVar("C")
T = TypeVar("T")


class Compiler(Generic[C, T]):
    """Compiles a condition node by node; what it has no function for is refused by name.

    Args:
        backend: The backend's name, for the message.

    Example:
        >>> from common.db.core import Contains, Eq, F, Not
        >>> words = Compiler[None, str]("words")
        >>> @words.on(Eq)
        ... def _eq(node: Eq, context: None) -> str:
        ...     return f"{node.field} is {node.value}"
        >>> @words.on(Not)
        ... def _not(node: Not, context: None) -> str:
        ...     return f"not ({words.compile(node.part, context)})"
        >>> words.compile(~(F.status == "open"), None)
        'not (status is open)'
        >>> words.compile(F.status.contains("o"), None)
        Traceback (most recent call last):
        common.db.core._errors.UnsupportedQuery: words cannot judge Contains on 'status'
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._table: dict[type[Predicate], Callable[[Any, C], T]] = {}

    def on(self, *kinds: type[N]) -> Callable[[Callable[[N, C], T]], Callable[[N, C], T]]:
        """Register the decorated function for nodes of these classes."""

        def register(function: Callable[[N, C], T]) -> Callable[[N, C], T]:
            self._table.update(dict.fromkeys(kinds, function))
            return function

        return register

    def compile(self, node: Predicate, context: C) -> T:
        """Return what the node's function makes of it.

        Raises:
            UnsupportedQuery: No function is registered for the class of ``node``.
        """
        function = self._table.get(type(node))
        if function is None:
            name = type(node).__name__
            field = getattr(node, "field", None)
            where = "" if field is None else f" on {field!r}"
            raise UnsupportedQuery(
                f"{self._backend} cannot judge {name}{where}", node=name, backend=self._backend
            )
        return function(node, context)
