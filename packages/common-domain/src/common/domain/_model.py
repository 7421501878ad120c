"""The base of everything that travels: immutable, lenient to readers, silent about secrets."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError

from common.domain._annotations import classes_in
from common.domain._declaration import class_name
from common.domain._problems import OWN
from common.domain._sensitive import MASK, own_sensitive_fields


class ValueObject(BaseModel):
    """An immutable value that may be part of a message, such as a recipient.

    - Fields cannot be assigned after construction.
    - Unknown fields are ignored when data is read, so that a consumer survives the optional
      field which a newer producer added. In code a mistyped keyword is the type checker's to
      find: mypy and pyright know the constructor (`typing.dataclass_transform`). A check at
      run time would cost every decoded message a call into Python.
    - `repr` and `str` mask fields marked `Sensitive`, and pydantic's errors do not quote input
      (``errors()`` still does: pass ``include_input=False`` before logging it).
    - NaN and infinities are refused: JSON has neither (RFC 8259, section 6).
    - Fields have one name, on the wire as in code, and all are sent. Nested values are
      ValueObjects too: the marks inside other classes would be lost.
    - The validator is built at first use, which keeps imports fast.

    Raises:
        TypeError: On declaration, when a field breaks these rules; at first use, when the field's
            type is declared after the class.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        defer_build=True,
        protected_namespaces=(),
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        _check_fields(cls)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        _check_fields(cls)  # again: forward references are resolved now
        return handler(source)

    if not TYPE_CHECKING:  # or else checkers would think that any attribute can be assigned

        def __setattr__(self, name: str, value: object) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError:  # pydantic's quotes the value
                raise _frozen(type(self), name) from None

        def __delattr__(self, name: str) -> None:
            try:
                super().__delattr__(name)
            except ValidationError:
                raise _frozen(type(self), name) from None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        hidden = own_sensitive_fields(type(self))
        for name, value in super().__repr_args__():
            yield name, MASK if name in hidden and value is not None else value


def _frozen(cls: type, name: str) -> ValidationError:
    problem = PydanticCustomError(OWN, "is immutable: make a new instance")
    return ValidationError.from_exception_data(
        cls.__name__, [{"type": problem, "loc": (name,), "input": None}], hide_input=True
    )


def _check_fields(cls: type[ValueObject]) -> None:
    if cls.model_config.get("alias_generator"):
        raise TypeError(f"{class_name(cls)} has an alias_generator: {_ONE_NAME}")
    for name, field in cls.model_fields.items():
        at = f"{class_name(cls)}.{name}"
        read = field.validation_alias
        names = read.choices if isinstance(read, AliasChoices) else [read or name]
        if name not in names or any(a not in {None, name} for a in _sent_as(field)):
            raise TypeError(f"{at} has an alias: {_ONE_NAME}")
        if field.exclude:
            raise TypeError(f"{at} has exclude=True, so it could not be read back: remove it")
        for each in classes_in(field.annotation):
            if _hides_marks(each):
                raise TypeError(
                    f"{at} holds {each.__name__}, in which Sensitive marks would be lost: derive "
                    f"{each.__name__} from common.domain.ValueObject"
                )


_ONE_NAME = (
    "fields are read, sent and locked under their own names; to read another name too, use "
    "Field(validation_alias=AliasChoices(name, other))"
)


def _sent_as(field: FieldInfo) -> tuple[str | None, str | None]:
    return field.alias, field.serialization_alias


def _hides_marks(cls: type) -> bool:
    if issubclass(cls, BaseModel):
        return not issubclass(cls, ValueObject)
    # The latter are marks of a TypedDict, of either module, and of a named tuple.
    return is_dataclass(cls) or hasattr(cls, "__required_keys__") or hasattr(cls, "_fields")
