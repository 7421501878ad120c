"""Entities of the tests, with one table each."""

import dataclasses
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from common.db.core import entity
from common.db.postgres import (
    Base,
    PostgresConfig,
    PostgresDatabase,
    SoftDeleteMixin,
    TenantMixin,
    TimestampMixin,
    VersionMixin,
    new_metadata,
    table_for,
)


def config_of(url: str, **options: Any) -> PostgresConfig:
    return PostgresConfig.model_validate({"url": url, **options})


def connect(url: str, **options: Any) -> PostgresDatabase:
    return PostgresDatabase(config_of(url, **options))


metadata = new_metadata()
TENANT = {"merchant_id": "m1", "domain": "shop"}
OTHER = {"merchant_id": "m2", "domain": "shop"}


@entity(
    table="calls",
    version="version",
    created="created_at",
    updated="updated_at",
    unique=[("number",)],
)
@dataclasses.dataclass
class Call:
    """A plain entity."""

    id: int
    number: str
    note: str | None = None
    data: dict[str, Any] | None = None
    version: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None


table_for(Call, metadata)


class Records(Base):
    """Mapped classes of the tests."""

    __abstract__ = True
    metadata = metadata


class State(StrEnum):
    """Of an agent."""

    FREE = "free"
    ON_CALL = "on_call"


class Agent(TenantMixin, TimestampMixin, SoftDeleteMixin, VersionMixin, Records):
    """A mapped class with every mixin."""

    __tablename__ = "agents"
    __unique__ = (("merchant_id", "domain", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    full_name: Mapped[str | None] = mapped_column("display")
    state: Mapped[State] = mapped_column(default=State.FREE)
    skills: Mapped[list[str] | None]
    calls_taken: Mapped[int] = mapped_column(
        sa.Integer, sa.CheckConstraint("calls_taken >= 0", "positive"), default=0
    )


class Leg(Records):
    """Refers to an agent."""

    __tablename__ = "legs"

    id: Mapped[int] = mapped_column(primary_key=True)
    agent_id: Mapped[UUID] = mapped_column(sa.ForeignKey("agents.id"))
