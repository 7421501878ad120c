"""The contract of every transport, on a server."""

import pytest
from nats_contract import OnNats, started

from common.events.core.testing import TransportContract
from common.testing import NatsServer


@pytest.fixture(scope="module")
def running():
    yield from started(NatsServer())


class TestNats(OnNats, TransportContract):
    ack_wait = 2.0  # longer than a busy machine pauses
    duplicate_window = 11.0
