"""The contract of every transport, on a cluster of three with three copies of each message."""

import pytest
from nats_contract import OnNats, started

from common.events.core.testing import TransportContract
from common.events.core.testing._cancelling import CancellingContract
from common.events.core.testing._ordering import OrderingContract
from common.events.core.testing._surviving import SurvivingContract
from common.testing import NatsCluster


@pytest.fixture(scope="module")
def running():
    yield from started(NatsCluster(3))


class OnCluster(OnNats):
    replicas = 3
    ack_wait = 2.0
    patience = 60.0  # elections take up to ten seconds, longer on a busy machine
    duplicate_window = 11.0


class TestClusterInShort(OnCluster, CancellingContract, OrderingContract, SurvivingContract):
    """Where it matters most that answers come from elsewhere than the server one talks to."""


@pytest.mark.chaos
class TestCluster(OnCluster, TransportContract):
    """All of it."""
