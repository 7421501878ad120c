"""Settings of a relay."""

import pytest
from pydantic import ValidationError

from common.events.outbox import RelayConfig


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"lease_seconds": 0.5}, "lease_seconds"),
        ({"poll_interval_seconds": float("nan")}, "poll_interval_seconds"),
        ({"lease_seconds": 10, "publish_timeout_seconds": 6}, "make the lease longer"),
        ({"retry_first_seconds": 10, "retry_max_seconds": 5}, "retry_max_seconds"),
        ({"attempts": 0}, "attempts"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_nonsense_is_told_at_construction(settings, told):
    with pytest.raises(ValidationError, match=told):
        RelayConfig(**settings)


def test_a_short_lease_shortens_the_wait_for_the_broker():
    assert RelayConfig(lease_seconds=3).publish_timeout_seconds == 1.5
    assert RelayConfig().publish_timeout_seconds == 10
