"""What OpenAPI is to say of a dependency that reads the request itself.

FastAPI knows only headers that it reads, and it would refuse a missing one with a 422 of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ATTRIBUTE = "__common_api__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Documentation:
    """Of one dependency, or of a part of the methods that it may be used with.

    Attributes:
        statuses: Which it may answer with.
        headers: Which it reads, each with a description.
        pattern: That their values have to match.
        required: Whether a request without these is refused.
        methods: With which this holds; empty: with all.
    """

    statuses: tuple[int, ...]
    headers: Mapping[str, str]
    pattern: str | None = None
    required: bool = False
    methods: frozenset[str] = frozenset()


def document(dependency: Callable[..., Any], *documentation: Documentation) -> None:
    """Leave word at a dependency."""
    setattr(dependency, _ATTRIBUTE, documentation)


def documentation_of(dependant: Any, method: str) -> Iterator[Documentation]:
    """Yield what was left at a route's dependencies, and at theirs."""
    if dependant is None:
        return
    for each in getattr(dependant.call, _ATTRIBUTE, ()):
        if not each.methods or method in each.methods:
            yield each
    for inner in dependant.dependencies:
        yield from documentation_of(inner, method)
