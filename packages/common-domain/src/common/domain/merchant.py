"""Merchants."""

from uuid import UUID

from common.domain._message import Event
from common.domain._types import Label, UtcDatetime


class MerchantCreated(Event, type="merchant.created", version=1, key="merchant_id"):
    """A merchant signed up.

    It belongs to the MERCHANT stream, as everything the merchant service says, although its
    constant is one of `common.domain.credit.CreditEvents`.
    """

    merchant_id: UUID
    name: Label | None = None
    merchant_domain: Label | None = None
    created_at: UtcDatetime | None = None
