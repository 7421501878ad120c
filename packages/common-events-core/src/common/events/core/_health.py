"""How a bus is."""

from dataclasses import dataclass

from common.events.core._transport import TransportHealth


@dataclass(frozen=True, slots=True)
class SubscriptionHealth:
    """How a subscription is.

    Attributes:
        durable: Its name.
        running: Whether it takes messages.
        in_hand: Messages this process holds.
        error: Why it stopped by itself.
    """

    durable: str
    running: bool
    in_hand: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class BusHealth:
    """How a bus is.

    Attributes:
        ok: Whether the transport is, and no subscription has stopped by itself.
        transport: How the connection to the broker is.
        subscriptions: How each subscription is; empty when the bus only publishes.
    """

    ok: bool
    transport: TransportHealth
    subscriptions: tuple[SubscriptionHealth, ...] = ()
