"""Soft delete and tenants for statements of SQLAlchemy's ORM."""

from collections.abc import Mapping
from typing import Any, NoReturn

from sqlalchemy import String, bindparam
from sqlalchemy.orm import ORMExecuteState, with_loader_criteria

from common.db.core import ALL_TENANTS, TenantRequiredError
from common.db.postgres._base import SoftDeleteMixin, TenantMixin
from common.db.postgres._session import TENANT


def restrict(state: ORMExecuteState) -> None:
    """Add the predicates that repositories have to SELECT, UPDATE and DELETE of entities.

    They hold for every entity in the statement, also joined, aliased and lazily loaded ones.
    What names tables instead of entities is not seen.

    Raises:
        TenantRequiredError: An entity belongs to tenants, and none is known.
    """
    if state.is_column_load or not (state.is_select or state.is_update or state.is_delete):
        return
    options = [
        with_loader_criteria(
            SoftDeleteMixin, lambda cls: cls.deleted_at.is_(None), include_aliases=True
        )
    ]
    tenant = state.session.info.get(TENANT)
    if tenant is not ALL_TENANTS:
        options.append(_of_tenant(tenant))
    state.statement = state.statement.options(*options)


def _of_tenant(tenant: Any) -> Any:
    known = tenant if isinstance(tenant, Mapping) else {}
    merchant, domain = known.get("merchant_id"), known.get("domain")
    if merchant is None or domain is None:
        # Asked for when a statement holds an entity of tenants, and only then.
        missing = bindparam("common_tenant", type_=String(), callable_=_refuse)
        return with_loader_criteria(
            TenantMixin, lambda cls: cls.merchant_id == missing, include_aliases=True
        )
    return with_loader_criteria(
        TenantMixin,
        lambda cls: (cls.merchant_id == merchant) & (cls.domain == domain),
        include_aliases=True,
    )


def _refuse() -> NoReturn:
    raise TenantRequiredError(
        "the statement holds an entity that belongs to tenants: give merchant_id and domain in "
        "tenant=, or write tenant=ALL_TENANTS"
    )
