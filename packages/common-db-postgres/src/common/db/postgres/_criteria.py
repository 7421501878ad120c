"""Soft delete and tenants for statements of SQLAlchemy's ORM."""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import sqlalchemy as sa
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from common.db.core import (
    ALL_TENANTS,
    TenantMismatchError,
    TenantRequiredError,
    UnsupportedOperation,
)
from common.db.postgres._base import SoftDeleteMixin, TenantMixin
from common.db.postgres._session import TENANT

_TENANT_FIELDS: Final = frozenset({"merchant_id", "domain"})
_MISSING: Final = "common_missing_tenant"


def restrict(state: ORMExecuteState) -> None:
    """Add the predicates that repositories have to SELECT, UPDATE and DELETE of entities.

    They hold for every entity in the statement, also joined, aliased and lazily loaded ones.
    What names tables instead of entities is not seen.

    Raises:
        TenantRequiredError: An entity belongs to tenants, and none is known; or an INSERT
            statement would store it unseen.
        TenantMismatchError: An UPDATE would hand rows to another tenant.
        UnsupportedOperation: An UPDATE names its rows by primary key, or an INSERT takes them
            from a SELECT: neither takes predicates.
    """
    tenant = state.session.info.get(TENANT)
    mapper = state.bind_mapper
    if mapper is not None and (state.is_insert or state.is_update):
        _refuse_unseen(state, mapper.class_, tenant)
    if state.is_column_load or not (state.is_select or state.is_update or state.is_delete):
        return
    options = [
        with_loader_criteria(
            SoftDeleteMixin, lambda cls: cls.deleted_at.is_(None), include_aliases=True
        )
    ]
    if tenant is not ALL_TENANTS:
        options.append(_of_tenant(tenant))
    state.statement = state.statement.options(*options)


def _of_tenant(tenant: Any) -> Any:
    known = tenant if isinstance(tenant, Mapping) else {}
    merchant, domain = known.get("merchant_id"), known.get("domain")
    if merchant is None or domain is None:
        # Part of a statement that holds an entity of tenants, and only then.
        missing = sa.bindparam(_MISSING, None, type_=sa.String())
        return with_loader_criteria(
            TenantMixin, lambda cls: cls.merchant_id == missing, include_aliases=True
        )
    return with_loader_criteria(
        TenantMixin,
        lambda cls: (cls.merchant_id == merchant) & (cls.domain == domain),
        include_aliases=True,
    )


def require_tenant(*event: Any) -> None:
    """Stop a statement that lacks its tenant, before it is sent (``before_cursor_execute``).

    Raises:
        TenantRequiredError: `restrict` found none.
    """
    if _MISSING in getattr(event[4].compiled, "binds", ()):
        _refuse()


def _refuse_unseen(state: ORMExecuteState, entity: type[Any], tenant: Any) -> None:
    """Refuse writes to which no predicate can be added."""
    of_tenants = issubclass(entity, TenantMixin) and tenant is not ALL_TENANTS
    if state.is_insert:
        if getattr(state.statement, "select", None) is not None:
            raise UnsupportedOperation(
                "INSERT ... FROM SELECT of entities would read rows that are hidden: name tables, "
                "and what may be read",
                operation="insert",
                backend="postgresql",
            )
        if of_tenants:
            raise TenantRequiredError(
                f"an INSERT statement of {entity.__name__} may write for any tenant: add() "
                "instances, use a repository, or write tenant=ALL_TENANTS",
                entity=entity.__name__,
            )
        return
    if isinstance(state.parameters, list) and (of_tenants or issubclass(entity, SoftDeleteMixin)):
        raise UnsupportedOperation(
            f"an UPDATE of {entity.__name__} by primary keys reaches rows that are hidden: give "
            "it a WHERE, or use a repository",
            operation="update",
            backend="postgresql",
        )
    if of_tenants and _TENANT_FIELDS & _assigned(state):
        raise _mismatch(entity)


def _assigned(state: ORMExecuteState) -> set[str]:
    """Return the fields that an UPDATE sets."""
    given: Any = state.parameters or {}
    values: Any = getattr(state.statement, "_values", None) or {}
    return {*given, *(getattr(each, "key", each) for each in values)}


def check_flush(session: Session, *_: object) -> None:
    """Let a session write instances of its tenant only.

    Raises:
        TenantRequiredError: An instance belongs to a tenant, and none is known.
        TenantMismatchError: It belongs to another one, or did when it was loaded.
    """
    tenant = session.info.get(TENANT)
    if tenant is ALL_TENANTS:
        return
    for instance in (*session.new, *session.dirty, *session.deleted):
        if isinstance(instance, TenantMixin):
            _check_instance(instance, tenant if isinstance(tenant, Mapping) else {})


def _check_instance(instance: TenantMixin, tenant: Mapping[str, Any]) -> None:
    attributes = sa.inspect(instance).attrs
    for name in _TENANT_FIELDS:
        if tenant.get(name) is None:
            _refuse()
        if any(value != tenant[name] for values in attributes[name].history for value in values):
            raise _mismatch(type(instance))


def _mismatch(entity: type[Any]) -> TenantMismatchError:
    return TenantMismatchError(
        f"the session is bound to another tenant than the {entity.__name__} is written for",
        entity=entity.__name__,
    )


def _refuse() -> NoReturn:
    raise TenantRequiredError(
        "the statement holds an entity that belongs to tenants: give merchant_id and domain in "
        "tenant=, or write tenant=ALL_TENANTS"
    )
