"""The entities of the contract suite; a backend makes tables for them from `entity_info`."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from common.db.core import entity


class Status(StrEnum):
    """State of an item."""

    OPEN = "open"
    CLOSED = "closed"


@entity(
    table="contract_items",
    version="version",
    tenant=("merchant", "domain"),
    deleted="deleted_at",
    created="created_at",
    updated="updated_at",
    unique=[("merchant", "domain", "slug")],
)
class Item(BaseModel):
    """Has everything: tenant, version, soft delete, times, a unique constraint, JSON."""

    id: UUID = Field(default_factory=uuid4)
    merchant: str = "m1"
    domain: str = "shop"
    slug: str
    status: Status = Status.OPEN
    rank: int | None = None
    note: Annotated[str, Field(max_length=100)] | None = None
    tags: list[str] = []
    version: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None


@entity(table="contract_samples")
@dataclass(kw_only=True)
class Sample:
    """A nullable field of each kind; no tenant, no version, deletes for good."""

    id: int
    flag: bool | None = None
    number: int | None = None
    ratio: float | None = None
    amount: Decimal | None = None
    text: str | None = None
    data: bytes | None = None
    ref: UUID | None = None
    at: datetime | None = None
    day: date | None = None
    status: Status | None = None
    meta: dict[str, Any] | None = None


@entity(table="contract_pairs", key=("left", "right"))
@dataclass(frozen=True)
class Pair:
    """Has a primary key of two fields."""

    left: str
    right: int
    label: str | None = None


contract_entities: Final[tuple[type, ...]] = (Item, Sample, Pair)
"""What a backend's ``database`` fixture makes tables for."""
