"""One field of an entity: its kind, and which values it takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final

import pydantic
from pydantic import SecretBytes, SecretStr, TypeAdapter
from pydantic_core import PydanticSerializationError

from common.db.core._errors import EntityDefinitionError
from common.db.core._kind import Kind, normalise, plain_column
from common.errors import ValidationError

# How stored values are read, by whatever kind of class: by the fields' names, not their aliases.
LOAD: Final[Any] = {"strict": False, "by_alias": False, "by_name": True}


@dataclass(frozen=True)
class FieldInfo:
    """What a backend has to know about one field.

    Args:
        name: The field's name, and that of its column.
        kind: What it holds.
        nullable: Whether it may be ``None``.
        max_length: Most characters of text, or bytes of a binary value.
        enum: The enumeration whose values it holds; kept as plain text or int.
        annotation: The declared type without ``None``; `Kind.JSON` fields are converted by it.
        validated: Whether the annotation says more than ``kind`` and ``max_length``: a pattern,
            bounds, the values of a ``Literal``, the shape of JSON. Then what is stored has to
            pass it, as it will have to when it is read.
    """

    name: str
    kind: Kind
    nullable: bool = False
    max_length: int | None = None
    enum: type[Enum] | None = None
    annotation: Any = field(default=Any, compare=False)
    validated: bool = field(default=False, compare=False)

    def check(self, value: object, *, max_bytes: int = 1 << 20) -> object:
        """Return ``value`` as it is stored.

        Args:
            value: What an entity, a change or a query holds.
            max_bytes: Most bytes of text, of a binary value or of JSON.

        Raises:
            ValidationError: Naming the field: wrong type, ``None`` in a field that is not
                nullable, NUL or half a surrogate pair in text, more than 64 bits, NaN, a
                datetime without time zone, too large, or against the declared constraints.
        """
        return self.check_all([value], max_bytes=max_bytes)[0]

    def check_value(self, value: object, *, max_bytes: int = 1 << 20) -> object:
        """Return a value to compare with as it is stored.

        As `check`, except that it may be longer than the field, or against its constraints:
        nothing equals it then.
        """
        try:
            if self.enum is not None:
                return self._member(value, self.enum)
            return normalise(self.kind, value, max_bytes)
        except ValueError as error:
            raise ValidationError(f"{self.name} {error}", field=self.name, value=value) from None

    def check_all(self, values: list[object], *, max_bytes: int = 1 << 20) -> list[object]:
        """Return many values as they are stored; as `check`, but faster per value."""
        known = [value for value in values if value is not None] if self.nullable else values
        if not known:
            return values
        plain = self.enum is None and plain_column(self.kind, known, max_bytes)
        if plain and self._within_length(known):
            self._validate(known)
            return values
        checked = [self._check(value, max_bytes) for value in values]
        self._validate([value for value in checked if value is not None])
        return checked

    def _within_length(self, values: Sequence[Any]) -> bool:
        return self.max_length is None or max(map(len, values)) <= self.max_length

    def _check(self, value: object, max_bytes: int) -> object:
        if value is None and self.nullable:
            return None
        try:
            if value is None:
                raise ValueError("must not be null")
            if self.enum is not None:
                return self._member(value, self.enum)
            if self.kind is Kind.JSON:
                value = self._dump(value)
            stored = normalise(self.kind, value, max_bytes)
            if not self._within_length((stored,)):
                unit = "bytes" if isinstance(stored, bytes) else "characters"
                raise ValueError(f"must have at most {self.max_length} {unit}")
        except ValueError as error:
            raise ValidationError(f"{self.name} {error}", field=self.name, value=value) from None
        return stored

    def _validate(self, stored: Sequence[object]) -> None:
        """Refuse what the declared type would refuse when it is read."""
        if not self.validated or not stored:
            return
        try:
            self._readable.validate_python(stored, **LOAD)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            # Without pydantic's message, which may quote the value.
            why = first["type"].replace("_", " ")
            raise ValidationError(
                f"{self.name} breaks its declaration: {why}",
                field=self.name,
                value=stored[int(first["loc"][0])],
            ) from None

    def _member(self, value: object, enum: type[Enum]) -> object:
        if not isinstance(value, enum):
            plain = str if self.kind is Kind.TEXT else int
            if type(value) is not plain or value not in self.members:
                known = ", ".join(str(member) for member in self.members)
                raise ValueError(f"must be one of {known}"[:200])
            return value
        return value.value

    @cached_property
    def members(self) -> dict[object, Enum]:
        """The members of the enumeration by their stored value."""
        return {member.value: member for member in self.enum or ()}

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Converts a `Kind.JSON` field from and to plain JSON data."""
        return self._adapter(self.annotation)

    @cached_property
    def _readable(self) -> TypeAdapter[Any]:
        return self._adapter(list[self.annotation])  # type: ignore[name-defined]

    def _adapter(self, type_: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(type_)
        except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticUserError) as error:
            raise EntityDefinitionError(
                f"{self.name} cannot be stored: pydantic cannot turn its type into JSON"
            ) from error

    def _dump(self, value: object) -> object:
        dump = self.adapter.dump_python
        try:
            _refuse_loss(dump(value, warnings="error", by_alias=False))
            return dump(value, mode="json", warnings="error", by_alias=False)
        except PydanticSerializationError:
            raise ValueError("does not fit its declared type") from None


def _refuse_loss(value: object) -> None:
    """Refuse what pydantic's JSON replaces or drops: NaN, secrets, keys that become alike."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or infinity")
    if isinstance(value, SecretStr | SecretBytes):
        raise ValueError(  # noqa: TRY004 - as for every value that does not fit
            "must not contain secrets, which are masked: store their values"
        )
    if isinstance(value, dict):
        if len(set(map(str, value))) != len(value):
            raise ValueError("must not contain keys that are the same text, such as 1 and '1'")
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _refuse_loss(item)
