"""The contract suite: a transport subclasses `TransportContract` and runs it with pytest.

```python
class TestNats(TransportContract):
    ack_wait = 1.0

    @pytest.fixture
    def new_transport(self, nats_url):
        return lambda: NatsTransport(NatsConfig(servers=[nats_url]))

    async def crash(self, transport): ...  # cut its connection, without handing anything back
```

It needs the extra ``common-events-core[testing]``, and pytest-asyncio in its mode ``auto``. Call
``pytest.register_assert_rewrite("common.events.core.testing")`` in ``conftest.py`` to see values
in failed assertions.

A service's own tests run its bus with `bus_under_test`. `History` records what several processes
did, and checks it against the promises; tests that kill servers and workers use it.
"""

try:
    from common.events.core.testing._bus import BusUnderTest, bus_under_test
    from common.events.core.testing._contract import TransportContract
    from common.events.core.testing._history import Fact, History, HistoryError
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"common.events.core.testing needs {missing.name}: pip install common-events-core[testing]",
        name=missing.name,
    ) from missing

__all__ = [
    # A service's own tests
    "BusUnderTest",
    "bus_under_test",
    # The suite
    "TransportContract",
    # Tools for further tests
    "Fact",
    "History",
    "HistoryError",
]
