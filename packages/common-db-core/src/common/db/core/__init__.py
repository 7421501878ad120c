"""Repository contract, queries, cursors, in-memory backend, factory and contract test kit."""

from typing import TYPE_CHECKING, Any

from common.db.core._check import CheckedQuery, check_query
from common.db.core._compile import Compiler
from common.db.core._config import DatabaseConfig
from common.db.core._cursor import Cursor, CursorCodec
from common.db.core._declare import entity, entity_info
from common.db.core._entity import EntityInfo, Row, Unique
from common.db.core._errors import (
    BackendNotFoundError,
    CheckError,
    CommitOutcomeUnknown,
    ConnectionLost,
    Deadlock,
    EntityDefinitionError,
    ForeignKeyError,
    InvalidCursorError,
    LockTimeout,
    NotNullError,
    PoolTimeout,
    SerializationConflict,
    SessionStateError,
    StaleVersionError,
    StatementTimeout,
    StoredDataError,
    TenantMismatchError,
    TenantRequiredError,
    TooManyConnections,
    UniqueViolationError,
    UnknownFieldError,
    UnsupportedOperation,
    UnsupportedQuery,
)
from common.db.core._factory import create_database_manager, open_database
from common.db.core._field import FieldInfo
from common.db.core._kind import Kind
from common.db.core._manager import DatabaseManager, Health
from common.db.core._page import NumberedPage, Page
from common.db.core._query import (
    And,
    Condition,
    Contains,
    EndsWith,
    Eq,
    F,
    Field,
    Ge,
    Gt,
    In,
    IsNull,
    Le,
    Lt,
    Ne,
    Not,
    Or,
    Order,
    Predicate,
    Query,
    StartsWith,
)
from common.db.core._repository import KeyValue, Repository
from common.db.core._select import Scope, Seek, Select
from common.db.core._session import (
    Capability,
    Driver,
    Isolation,
    PoolStats,
    Session,
    TransactionSession,
    key_conflict,
)
from common.db.core._tenant import ALL_TENANTS, AllTenants, Tenant
from common.db.core._unit import UnitOfWork
from common.db.core._version import ANY, AnyVersion, Expected, Version

if TYPE_CHECKING:
    from common.db.core._mapper import Mapper
    from common.db.core._memory import MemoryDatabase

# Loaded when asked for: services on a real database need not import what they do not use.
_LAZY = {"Mapper": "common.db.core._mapper", "MemoryDatabase": "common.db.core._memory"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


__all__ = [
    # Opening a database
    "DatabaseConfig",
    "DatabaseManager",
    "Health",
    "MemoryDatabase",
    "PoolStats",
    "create_database_manager",
    "open_database",
    # Entities
    "EntityInfo",
    "FieldInfo",
    "Kind",
    "Mapper",
    "Unique",
    "entity",
    "entity_info",
    # Repositories and units of work
    "ALL_TENANTS",
    "ANY",
    "AllTenants",
    "AnyVersion",
    "Expected",
    "Isolation",
    "KeyValue",
    "Repository",
    "Tenant",
    "UnitOfWork",
    "Version",
    # Queries
    "And",
    "Condition",
    "Contains",
    "EndsWith",
    "Eq",
    "F",
    "Field",
    "Ge",
    "Gt",
    "In",
    "IsNull",
    "Le",
    "Lt",
    "Ne",
    "Not",
    "Or",
    "Order",
    "Predicate",
    "Query",
    "StartsWith",
    # Pages
    "Cursor",
    "NumberedPage",
    "Page",
    # Errors: misuse and bad input
    "BackendNotFoundError",
    "EntityDefinitionError",
    "InvalidCursorError",
    "SessionStateError",
    "TenantMismatchError",
    "TenantRequiredError",
    "UnknownFieldError",
    "UnsupportedOperation",
    "UnsupportedQuery",
    # Errors: conflicts with what is stored
    "CheckError",
    "ForeignKeyError",
    "NotNullError",
    "StaleVersionError",
    "UniqueViolationError",
    # Errors: failures of the database
    "CommitOutcomeUnknown",
    "ConnectionLost",
    "Deadlock",
    "LockTimeout",
    "PoolTimeout",
    "SerializationConflict",
    "StatementTimeout",
    "StoredDataError",
    "TooManyConnections",
    # Writing a backend
    "Capability",
    "CheckedQuery",
    "Compiler",
    "CursorCodec",
    "Driver",
    "Row",
    "Scope",
    "Seek",
    "Select",
    "Session",
    "TransactionSession",
    "check_query",
    "key_conflict",
]
