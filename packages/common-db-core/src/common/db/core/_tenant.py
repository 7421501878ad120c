"""Binding a repository to a tenant."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from common.context import current
from common.db.core._entity import EntityInfo
from common.db.core._errors import TenantRequiredError
from common.db.core._kind import Kind
from common.db.core._names import unknown_field
from common.db.core._select import Scope
from common.errors import ValidationError


class AllTenants(Enum):
    """The type of `ALL_TENANTS`."""

    ALL_TENANTS = "all tenants"

    def __repr__(self) -> str:
        return "ALL_TENANTS"


ALL_TENANTS: Final = AllTenants.ALL_TENANTS
"""Written as ``tenant=ALL_TENANTS``: work over the rows of all tenants."""

Tenant: TypeAlias = Mapping[str, object] | str | int | UUID | Literal[AllTenants.ALL_TENANTS] | None
"""A value for each tenant field; the value alone where there is one field."""


def bind(info: EntityInfo[Any], tenant: Tenant, *, max_bytes: int) -> Scope:
    """Return the scope of a repository.

    Args:
        info: The entity.
        tenant: Whose rows. ``None`` takes `common.context.current`'s tenant, where the entity
            has one tenant field and that holds text.
        max_bytes: Most bytes of one value.

    Raises:
        TenantRequiredError: The entity has tenant fields, and values for them are missing.
        UnknownFieldError: A name is no field of the entity.
        ValidationError: A value does not fit its field, or the entity has no tenants.
    """
    if tenant is ALL_TENANTS or (tenant is None and not info.tenant):
        return Scope((), info.deleted)
    if not info.tenant:
        raise ValidationError(f"{info.name} declares no tenant fields: leave tenant= out")
    values = _values(info, tenant)
    for name in values:
        if name not in info.tenant:
            raise unknown_field(info.name, name, info.tenant)
    missing = [name for name in info.tenant if values.get(name) is None]
    if missing:
        raise TenantRequiredError(
            f"{info.name} belongs to tenants: give {' and '.join(missing)} in tenant=, or write "
            "tenant=ALL_TENANTS to work over all of them",
            entity=info.name,
        )
    bound = tuple(
        (name, info.field(name).check(values[name], max_bytes=max_bytes)) for name in info.tenant
    )
    return Scope(bound, info.deleted)


def _values(info: EntityInfo[Any], tenant: Tenant) -> Mapping[str, object]:
    if isinstance(tenant, Mapping):
        return tenant
    only = info.tenant[0] if len(info.tenant) == 1 else None
    if tenant is None:
        if only is not None and info.field(only).kind is Kind.TEXT:
            return {only: current().tenant or None}  # an empty header names nobody
        return {}
    if only is None:
        raise ValidationError(
            f"{info.name} has several tenant fields: give a mapping of {', '.join(info.tenant)}"
        )
    return {only: tenant}
