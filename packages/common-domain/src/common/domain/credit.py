"""What earns or spends credit: orders, accounts, subscriptions.

These events had no declared payload before. The id of the thing concerned is required; the rest
is optional, since producers that have not moved yet do not send it.
"""

from enum import StrEnum
from uuid import UUID

from common.domain._message import Event
from common.domain._types import Identifier, Label, UtcDatetime
from common.domain.merchant import MerchantCreated


class OrderUpdated(Event, type="order.updated", version=1, key="order_id"):
    """An order changed."""

    order_id: Identifier
    merchant_id: UUID | None = None
    account_id: Identifier | None = None
    status: Label | None = None
    updated_at: UtcDatetime | None = None


class AccountCreated(Event, type="account.created", version=1, key="account_id"):
    """An account was opened."""

    account_id: Identifier
    merchant_id: UUID | None = None
    plan: Label | None = None
    created_at: UtcDatetime | None = None


class SubscriptionRenewed(Event, type="subscription.renewed", version=1, key="subscription_id"):
    """A subscription runs for another period."""

    subscription_id: Identifier
    account_id: Identifier | None = None
    merchant_id: UUID | None = None
    plan: Label | None = None
    renewed_at: UtcDatetime | None = None
    period_end: UtcDatetime | None = None


class CreditEvents(StrEnum):
    """Subjects of the events which the credit service acts upon."""

    ORDER_UPDATED = OrderUpdated.__message__.subject
    ACCOUNT_CREATED = AccountCreated.__message__.subject
    SUBSCRIPTION_RENEWED = SubscriptionRenewed.__message__.subject
    MERCHANT_CREATED = MerchantCreated.__message__.subject
