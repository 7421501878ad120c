"""What an annotation is made of."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel


def parts(annotation: object, seen: frozenset[int] = frozenset()) -> Iterator[object]:
    """Yield an annotation and everything it mentions; aliases and NewTypes are followed."""
    if id(annotation) in seen:  # an alias that contains itself, as JsonValue does
        return
    seen = seen | {id(annotation)}
    yield annotation
    origin: Any = get_origin(annotation)
    inner = list(get_args(annotation))
    if origin is Annotated:
        inner = inner[:1]
    for each in (annotation, origin):
        if isinstance(each, type):  # a class may have attributes of these names by chance
            continue
        for attribute in ("__value__", "__supertype__"):
            if hasattr(each, attribute):
                inner.append(getattr(each, attribute))
    for each in inner:
        yield from parts(each, seen)


def classes_in(annotation: object) -> Iterator[type]:
    """Yield the classes an annotation mentions."""
    for each in parts(annotation):
        if isinstance(each, type) and get_origin(each) is None:
            yield each


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the model classes an annotation mentions."""
    for each in classes_in(annotation):
        if issubclass(each, BaseModel):
            yield each
