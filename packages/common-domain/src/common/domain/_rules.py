"""Cross-field rules that cost nothing where they do not apply."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from common.domain._problems import OWN


class _Nothing:
    """Takes no value: the core asks the class of an enumeration about what is not listed."""

    def __init__(self, _: object) -> None:
        raise ValueError


@dataclass(frozen=True, slots=True)
class refuse_without:  # noqa: N801 - reads as a rule in an annotation
    """Refuses one value of an enumeration field unless another field, declared before, is set.

    A validator on the model would call into Python for every message, a sixth of the time it
    takes to read a small one. Here JSON with any other value never leaves pydantic's core;
    one with this value costs more than a validator would.

    Args:
        field: The field required, declared before the annotated one.
        value: The value that requires it.
    """

    field: str
    value: StrEnum

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        field, value = self.field, self.value

        def check(status: StrEnum, info: core_schema.ValidationInfo) -> StrEnum:
            # Absent from the data: the field itself was invalid and is reported already.
            if status is value and info.data.get(field, status) is None:
                raise PydanticCustomError(
                    OWN, "'{value}' needs {field}", {"value": value.value, "field": field}
                )
            return status

        others = [member for member in type(value) if member is not value]
        accepted = ", ".join(f"'{member.value}'" for member in others)
        checked = core_schema.with_info_after_validator_function(check, handler(source))
        unaffected = core_schema.enum_schema(_Nothing, others)
        return core_schema.json_or_python_schema(
            core_schema.union_schema(
                [unaffected, checked],
                mode="left_to_right",
                custom_error_type=OWN,
                custom_error_message=f"Input should be {accepted} or, with {field}, '{value}'",
            ),
            checked,
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(cast("core_schema.JsonOrPythonSchema", schema)["python_schema"])
