"""What the ready-made sections share."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field

from common.config._mask import MASK, mask_value
from common.config._settings import Section

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Arguments(dict[str, Any]):
    """Keyword arguments for a library's configuration; the repr masks the secret ones."""

    def __init__(self, values: Mapping[str, Any], *, secret: Iterable[str] = ()) -> None:
        super().__init__(values)
        self._secret = frozenset(secret)

    def __repr__(self) -> str:
        shown = {
            key: MASK if key in self._secret and value is not None else mask_value(value, name=key)
            for key, value in self.items()
        }
        return f"{type(self).__name__}({shown!r})"


class LibrarySection(Section):
    """A section that configures one library, without importing it."""

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments for the library's configuration, as plain data.

        Secrets are plain text there, since the libraries do not know pydantic's types; the
        repr of the mapping masks them.
        """
        return arguments({name: getattr(self, name) for name in type(self).model_fields})


def arguments(values: Mapping[str, object]) -> Arguments:
    """Return ``values`` as plain data; those that were secret stay out of the repr."""
    secret = [name for name, value in values.items() if _is_secret(value)]
    return Arguments({name: _plain(value) for name, value in values.items()}, secret=secret)


def _is_secret(value: object) -> bool:
    if isinstance(value, tuple):
        return any(_is_secret(each) for each in cast("tuple[object, ...]", value))
    return hasattr(value, "get_secret_value")


def _plain(value: object) -> object:
    if callable(reveal := getattr(value, "get_secret_value", None)):
        return reveal()
    if isinstance(value, LibrarySection):
        return value.config()
    if isinstance(value, tuple):
        return [_plain(each) for each in cast("tuple[object, ...]", value)]
    return str(value) if isinstance(value, Path) else value
