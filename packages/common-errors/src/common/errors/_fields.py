"""Annotated attributes of an error class become keyword arguments of its constructor."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing costs more than this whole package
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_options):  # noqa: ANN003, ANN202
        """Do nothing; type checkers see the real one."""
        return lambda cls: cls


_MISSING: Any = object()


class Field:
    """How one attribute of an error is given to its constructor."""

    __slots__ = ("attribute", "default", "keyword", "kw_only", "public")

    def __init__(
        self,
        default: Any = _MISSING,
        *,
        alias: str | None = None,
        kw_only: bool = True,
        public: bool = True,
    ) -> None:
        self.default = default
        self.keyword = alias or ""
        self.attribute = ""
        self.kw_only = kw_only
        self.public = public


def field(
    *,
    default: Any = _MISSING,
    alias: str | None = None,
    kw_only: bool = True,
    public: bool = True,
) -> Any:
    """Describe an attribute of an error where a plain default does not say enough.

    Args:
        default: The value when the constructor is not given one; without it the argument is
            required.
        alias: Name of the constructor's argument, when it differs from the attribute's name.
        kw_only: Whether the argument must be named.
        public: ``False`` keeps the value on the attribute only: it never appears in
            ``details``, ``to_dict()``, ``str()`` or ``repr()``. Meant for whatever a user
            submitted and for personal data.

    Example:
        >>> from common.errors import ValidationError
        >>> class InvalidIbanError(ValidationError):
        ...     code = "INVALID_IBAN"
        ...     iban: str | None = field(default=None, public=False)
        >>> error = InvalidIbanError("Not an IBAN", iban="DE02120300000000202051")
        >>> error.details, error.iban[:2]
        ({}, 'DE')
    """
    return Field(default, alias=alias, kw_only=kw_only, public=public)


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(field, Field))
class DeclaredError(Exception):
    """An exception whose annotated attributes are the arguments of its constructor.

    Type checkers see the constructor through `typing.dataclass_transform`.
    """

    _fields: ClassVar[Mapping[str, Field]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        fields: dict[str, Field] = {}
        for base in reversed(cls.__mro__[1:]):
            fields.update(base.__dict__.get("_fields", {}))
        for attribute, annotation in _own_annotations(cls).items():
            if _is_class_variable(annotation) or attribute in _CLASS_ATTRIBUTES:
                continue
            given = cls.__dict__.get(attribute, _MISSING)
            declared = given if isinstance(given, Field) else Field(given)
            declared.attribute = attribute
            declared.keyword = declared.keyword or attribute
            if type(declared.default).__hash__ is None:
                raise TypeError(
                    f"{cls.__qualname__}.{attribute} has a mutable default, which all instances "
                    "would share: use None"
                )
            fields[declared.keyword] = declared
            if declared.default is not _MISSING:
                setattr(cls, attribute, declared.default)
            elif given is not _MISSING:
                delattr(cls, attribute)
        cls._fields = fields

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        fields = type(self)._fields
        positional = [name for name, each in fields.items() if not each.kw_only]
        if len(arguments) > len(positional):
            raise TypeError(
                f"{type(self).__qualname__} takes {len(positional)} positional argument, not "
                f"{len(arguments)}: name the others ({', '.join(fields)})"
            )
        for name, value in zip(positional, arguments, strict=False):
            if name in named:
                raise TypeError(f"{type(self).__qualname__} got {name!r} twice")
            named[name] = value
        for name, each in fields.items():
            value = named.pop(name, each.default)
            if value is _MISSING:
                raise TypeError(f"{type(self).__qualname__} needs the argument {name!r}")
            self.__dict__[each.attribute] = value
        if named:
            raise TypeError(_unknown(type(self), next(iter(named))))
        self._settle()

    def _settle(self) -> None:
        """Finish construction, once every field has its value."""


# Plain class attributes of AppError, also when a subclass writes an annotation beside them.
_CLASS_ATTRIBUTES = frozenset({"code", "status", "retryable", "default_message"})


def _unknown(cls: type[DeclaredError], name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only needed for a mistake

    near = get_close_matches(name, cls._fields, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(cls._fields)}"
    return f"{cls.__qualname__} has no field {name!r}: {hint}"


def _own_annotations(cls: type) -> dict[str, Any]:
    # Not inspect.get_annotations: importing inspect costs more than this whole package.
    found: dict[str, Any] | None = cls.__dict__.get("__annotations__")  # noqa: RUF063
    if found is None and sys.version_info >= (3, 14):  # where they are evaluated late, or never
        import annotationlib  # noqa: PLC0415

        found = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return found or {}


def _is_class_variable(annotation: object) -> bool:
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return text.startswith(("ClassVar", "typing.ClassVar", "t.ClassVar"))
