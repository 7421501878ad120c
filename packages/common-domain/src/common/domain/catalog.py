"""Merchants' catalogs: synchronising, images, analysis, enrichment; and what goes wrong there."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AliasChoices, ConfigDict, Field

from common.domain._json import JsonData, JsonObject
from common.domain._message import Command, Event
from common.domain._model import ValueObject
from common.domain._types import Count, Identifier, Label, Seconds, Text, UtcDatetime, WebUrl
from common.errors import ConflictError, NotFoundError

# --- values ---------------------------------------------------------------------------------


class CatalogItem(ValueObject):
    """One item of a catalog.

    Each shop system has fields of its own, so fields not named here are kept as they are.
    ``id`` is read as ``item_id``; numeric ids become text.
    """

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
    __pydantic_extra__: dict[str, JsonData]  # pyright: ignore[reportIncompatibleVariableOverride]

    item_id: Annotated[Identifier, Field(validation_alias=AliasChoices("item_id", "id"))]
    title: Text | None = None
    description: Annotated[str, Field(max_length=100_000)] | None = None


Items = Annotated[list[CatalogItem], Field(max_length=10_000)]

# --- commands -------------------------------------------------------------------------------


class CatalogSyncInitial(Command, type="catalog.sync_initial", version=1, key="merchant_id"):
    """Read a merchant's whole catalog for the first time."""

    merchant_id: UUID
    source: Label
    sync_type: Label
    webhook_url: WebUrl | None = None


class CatalogItemsCommand(Command):
    """Base of the commands about some items of a merchant's catalog."""

    merchant_id: UUID
    items: Items
    job_id: Identifier | None = None


class CatalogSyncUpdate(
    CatalogItemsCommand, type="catalog.sync_update", version=1, key="merchant_id"
):
    """Store changed items."""


class CatalogProcessImages(
    CatalogItemsCommand, type="catalog.process_images", version=1, key="merchant_id"
):
    """Fetch and convert the items' images."""


class CatalogAnalyzeItems(
    CatalogItemsCommand, type="catalog.analyze_items", version=1, key="merchant_id"
):
    """Analyse the items."""


class CatalogEnrichWithAI(
    CatalogItemsCommand, type="catalog.enrich_with_ai", version=1, key="merchant_id"
):
    """Let a model complete the items."""


CatalogSyncInitialPayload = CatalogSyncInitial
CatalogSyncUpdatePayload = CatalogSyncUpdate
CatalogProcessImagesPayload = CatalogProcessImages
CatalogAnalyzeItemsPayload = CatalogAnalyzeItems
CatalogEnrichWithAIPayload = CatalogEnrichWithAI


class CatalogCommands(StrEnum):
    """Subjects of the catalog commands."""

    CATALOG_SYNC_INITIAL = CatalogSyncInitial.__message__.subject
    CATALOG_SYNC_UPDATE = CatalogSyncUpdate.__message__.subject
    CATALOG_PROCESS_IMAGES = CatalogProcessImages.__message__.subject
    CATALOG_ANALYZE_ITEMS = CatalogAnalyzeItems.__message__.subject
    CATALOG_ENRICH_WITH_AI = CatalogEnrichWithAI.__message__.subject


# --- events ---------------------------------------------------------------------------------


class CatalogEvent(Event):
    """Base of the catalog events.

    They had no declared payload before. Only the merchant is required, since producers that have
    not moved yet do not send the rest.
    """

    merchant_id: UUID
    job_id: Identifier | None = None


class CatalogSyncStarted(CatalogEvent, type="catalog.sync_started", version=1, key="merchant_id"):
    """A synchronisation began."""

    source: Label | None = None
    sync_type: Label | None = None
    started_at: UtcDatetime | None = None


class CatalogSyncCompleted(
    CatalogEvent, type="catalog.sync_completed", version=1, key="merchant_id"
):
    """A synchronisation ended well."""

    total_items: Count | None = None
    duration_seconds: Seconds | None = None
    completed_at: UtcDatetime | None = None


class CatalogSyncFailed(CatalogEvent, type="catalog.sync_failed", version=1, key="merchant_id"):
    """A synchronisation was given up."""

    error_message: Text
    error_code: Label | None = None
    failed_at: UtcDatetime | None = None


class CatalogImagesProcessed(
    CatalogEvent, type="catalog.images_processed", version=1, key="merchant_id"
):
    """Images of items are ready."""

    total_processed: Count | None = None
    total_failed: Count | None = None
    completed_at: UtcDatetime | None = None


class CatalogItemsAnalyzed(
    CatalogEvent, type="catalog.items_analyzed", version=1, key="merchant_id"
):
    """Items were analysed."""

    total_analyzed: Count | None = None
    total_failed: Count | None = None
    completed_at: UtcDatetime | None = None


class CatalogAIEnriched(CatalogEvent, type="catalog.ai_enriched", version=1, key="merchant_id"):
    """A model completed items."""

    enrichment_details: JsonObject = Field(default_factory=dict)
    total_enriched: Count | None = None
    completed_at: UtcDatetime | None = None


class CatalogEvents(StrEnum):
    """Subjects of the catalog events."""

    CATALOG_SYNC_STARTED = CatalogSyncStarted.__message__.subject
    CATALOG_SYNC_COMPLETED = CatalogSyncCompleted.__message__.subject
    CATALOG_SYNC_FAILED = CatalogSyncFailed.__message__.subject
    CATALOG_IMAGES_PROCESSED = CatalogImagesProcessed.__message__.subject
    CATALOG_ITEMS_ANALYZED = CatalogItemsAnalyzed.__message__.subject
    CATALOG_AI_ENRICHED = CatalogAIEnriched.__message__.subject


# --- errors ---------------------------------------------------------------------------------


class SyncInProgressError(ConflictError):
    """The merchant's catalog is being synchronised already."""

    code = "SYNC_IN_PROGRESS"
    default_message = "Another sync is already in progress"

    current_sync_id: str | None = None
    merchant_id: str | None = None


class SyncNotFoundError(NotFoundError):
    """There is no such synchronisation."""

    code = "SYNC_NOT_FOUND"

    sync_id: str | None = None


class SyncNotResumableError(ConflictError):
    """The synchronisation cannot go on from where it stopped."""

    code = "SYNC_NOT_RESUMABLE"

    sync_id: str | None = None
    sync_status: str | None = None
    reason: str | None = None


class SyncNotCancellableError(ConflictError):
    """The synchronisation cannot be stopped any more."""

    code = "SYNC_NOT_CANCELLABLE"

    sync_id: str | None = None
    sync_status: str | None = None


class ItemNotFoundError(NotFoundError):
    """The merchant's catalog has no such item."""

    code = "ITEM_NOT_FOUND"

    item_id: str | None = None
    merchant_id: str | None = None


class ParentSyncNotFoundError(NotFoundError):
    """The synchronisation which this one continues does not exist."""

    code = "PARENT_SYNC_NOT_FOUND"

    parent_sync_id: str | None = None
