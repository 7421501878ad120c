"""One field of an entity: its kind, and which values it takes."""

import math
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from pydantic import SecretBytes, SecretStr, TypeAdapter
from pydantic_core import PydanticSerializationError

from common.db.core._kind import Kind, normalise, plain_column
from common.errors import ValidationError


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
    """

    name: str
    kind: Kind
    nullable: bool = False
    max_length: int | None = None
    enum: type[Enum] | None = None
    annotation: Any = field(default=Any, compare=False)

    def check(self, value: object, *, max_bytes: int = 1 << 20) -> object:
        """Return ``value`` as it is stored.

        Args:
            value: What an entity, a change or a query holds.
            max_bytes: Most bytes of text, of a binary value or of JSON.

        Raises:
            ValidationError: Naming the field: wrong type, ``None`` in a field that is not
                nullable, NUL or half a surrogate pair in text, more than 64 bits, NaN, a
                datetime without time zone, or too large.
        """
        if value is None:
            if not self.nullable:
                raise ValidationError(f"{self.name} must not be null", field=self.name)
            return None
        try:
            return self._check(value, max_bytes)
        except ValueError as error:
            raise ValidationError(f"{self.name} {error}", field=self.name, value=value) from None

    def check_value(self, value: object, *, max_bytes: int = 1 << 20) -> object:
        """Return a value to compare with as it is stored.

        As `check`, except that it may be longer than the field: nothing equals it then.
        """
        try:
            if self.enum is not None:
                return self._member(value, self.enum)
            return normalise(self.kind, value, max_bytes)
        except ValueError as error:
            raise ValidationError(f"{self.name} {error}", field=self.name, value=value) from None

    def check_all(self, values: list[object], *, max_bytes: int = 1 << 20) -> list[object]:
        """Return many values as they are stored; as `check`, but faster per value."""
        if values and self.enum is None and plain_column(self.kind, values, max_bytes):
            fits = self.max_length is None or all(
                len(value) <= self.max_length  # type: ignore[arg-type]
                for value in values
            )
            if fits:
                return values
        return [self.check(value, max_bytes=max_bytes) for value in values]

    def _check(self, value: object, max_bytes: int) -> object:
        if self.enum is not None:
            return self._member(value, self.enum)
        if self.kind is Kind.JSON:
            value = self._dump(value)
        stored = normalise(self.kind, value, max_bytes)
        most = self.max_length
        if most is not None and isinstance(stored, str | bytes) and len(stored) > most:
            unit = "bytes" if isinstance(stored, bytes) else "characters"
            raise ValueError(f"must have at most {most} {unit}")
        return stored

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
        return TypeAdapter(self.annotation)

    def _dump(self, value: object) -> object:
        dump = self.adapter.dump_python
        try:
            _refuse_loss(dump(value, warnings="error", by_alias=False))
            return dump(value, mode="json", warnings="error", by_alias=False)
        except PydanticSerializationError:
            raise ValueError("does not fit its declared type") from None


def _refuse_loss(value: object) -> None:
    """Refuse what pydantic's JSON replaces: NaN by null, secrets by asterisks."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or infinity")
    if isinstance(value, SecretStr | SecretBytes):
        raise ValueError(  # noqa: TRY004 - as for every value that does not fit
            "must not contain secrets, which are masked: store their values"
        )
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _refuse_loss(item)
